"""The numbers that name a person — identity number and phone — in one written form each, or a clear refusal.

Nothing here keeps or repeats a number: refusals say what is wrong, never what was given.
"""

import re
import unicodedata
from datetime import date

from ledger.errors import IdNumberInvalidError, PhoneInvalidError

_ID_NUMBER = re.compile(r"[1-9][0-9]{16}[0-9X]")
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECK_CHARACTERS = "10X98765432"

_MOBILE = re.compile(r"1[3-9][0-9]{9}")
_LANDLINE = re.compile(r"0(?:10|2[0-9])[0-9]{8}|0[3-9][0-9]{2}[0-9]{7,8}|400[0-9]{7}")
_ABROAD = re.compile(r"\+(?!86)[1-9][0-9]{7,14}")


def normal_id_number(text: str) -> str:
    """The 18 characters of a citizen identity number (GB 11643), capital X.

    Full-width digits and spaces are accepted. Refused with ID_NUMBER_INVALID: another shape (the 15-digit numbers
    ended in 2013), a birth date that is no day, a check character that does not fit.
    """
    number = _plain(text).replace(" ", "").upper()
    if not _ID_NUMBER.fullmatch(number):
        raise IdNumberInvalidError(
            problem_zh="应为 18 位，末位可为 X", problem_en="it has 18 characters, the last may be X"
        )
    try:
        date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        raise IdNumberInvalidError(
            problem_zh="出生日期不存在", problem_en="its birth date is no day of the calendar"
        ) from None
    if check_character(number[:17]) != number[17]:
        raise IdNumberInvalidError(problem_zh="校验码不符", problem_en="its check character does not fit")
    return number


def check_character(first_seventeen: str) -> str:
    """The 18th character of an identity number: ISO 7064 MOD 11-2 over the first seventeen digits (GB 11643-1999)."""
    total = sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, first_seventeen, strict=True))
    return _CHECK_CHARACTERS[total % 11]


def normal_phone(text: str) -> str:
    """A phone number in the one form that makes equal numbers equal; refused with PHONE_INVALID otherwise.

    Mobile: 11 digits. Landline: area code with its 0, then the number. Abroad: ``+`` and digits. Country code 86,
    spaces, hyphens, brackets and full-width digits are taken away; a landline without area code is refused,
    because two towns may share it.
    """
    number = re.sub(r"[\s()\-.·]", "", _plain(text))
    within = re.sub(r"^(?:\+|00)86|^86(?=1[3-9][0-9]{9}$)", "", number)
    if within != number and not within.startswith(("0", "400")) and not _MOBILE.fullmatch(within):
        within = "0" + within
    if _MOBILE.fullmatch(within) or _LANDLINE.fullmatch(within):
        return within
    abroad = re.sub(r"^00", "+", number)
    if _ABROAD.fullmatch(abroad):
        return abroad
    raise PhoneInvalidError


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip()
