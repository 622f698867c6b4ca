"""What anybody is told of a certificate without a key, and what nobody is (L21, T35, F26, T51)."""

import hashlib
from typing import Any

import pytest

from api.problems import TooManyRequestsError
from api.verify import ADDRESSES_MAX, CHECKS_PER_MINUTE, Limit
from tests.api.conftest import NAME, Town, id_number, name
from tests.api.test_certificates import decided
from tests.api.test_privacy import found_in

JSON = {"Accept": "application/json"}
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
def served(town: Town) -> Town:
    """A town where Wang served, with a certificate that was printed."""
    town.enrol()
    town.served()
    town.issuer()
    return town


def told(town: Town, number: str) -> Any:
    response = town.client.get(f"/verify/{number}", headers=JSON)
    assert response.status_code == 200, response.text
    return response.json()


def compared(town: Town, number: str, **doubt: str) -> Any:
    return town.client.post(f"/verify/{number}", headers=JSON, json=doubt)


def test_anybody_is_told_whether_it_holds_and_of_whom_only_a_mask(served: Town) -> None:
    number = served.certificate()
    pdf = served.printed(number)
    shown = told(served, number)
    assert (shown["status"], shown["minutes"], shown["masked_name"]) == (
        "valid",
        140,
        "王***兰",
    )
    assert shown["pdf_sha256"] == [hashlib.sha256(pdf).hexdigest()]
    assert (shown["issuer_name"], shown["county_name"]) == ("站", "甘谷县文明实践中心")
    assert shown["tree_size"] >= shown["position"] > shown["as_of_position"]
    page = served.client.get(f"/verify/{number}", headers=BROWSER)
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["X-Robots-Tag"] == "noindex"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "有效" in page.text
    assert "Valid" in served.client.get(f"/verify/{number}?lang=en", headers=BROWSER).text
    assert (
        "Valid" in served.client.get(f"/verify/{number}", headers=BROWSER | {"Accept-Language": "en-GB"}).text
    )
    for text in (page.text, str(shown)):
        assert found_in(text.encode()) == []
    assert served.client.get("/static/check.css").headers["content-type"].startswith("text/css")


def test_what_became_of_it_later_is_told(served: Town) -> None:
    """T37, F26: corrected, superseded, revoked."""
    number = served.certificate()
    served.wait(days=1)
    served.served("another")
    served.done(served.correction(kind="reverse"), "checker", {"verdict": "approved"})
    assert (told(served, number)["status"], told(served, number)["touched"]) == ("corrected", True)
    new = served.certificate(replaces=number)
    old = told(served, number)
    assert (old["status"], old["replaced_by_number"], old["touched"]) == ("superseded", new, True)
    served.done(f"/certificates/{new}/revoke", "checker", {"reason": "issued_by_mistake"})
    assert (told(served, new)["status"], told(served, new)["revoked_on"]) == ("revoked", served.today)
    assert new in served.client.get(f"/verify/{number}", headers=BROWSER).text


def test_a_typo_is_told_from_a_number_that_was_never_issued(served: Town) -> None:
    for accepts in (JSON, BROWSER):
        typo = served.client.get("/verify/2026-00000-00000-0", headers=accepts)
        unknown = served.client.get("/verify/2026-00000-00000-H", headers=accepts)
        assert (typo.status_code, unknown.status_code) == (422, 404)
        assert typo.headers["X-Robots-Tag"] == unknown.headers["X-Robots-Tag"] == "noindex"
    assert "编号有误" in served.client.get("/verify/2026-00000-00000-0", headers=BROWSER).text
    assert "查无此编号" in served.client.get("/verify/2026-00000-00000-H", headers=BROWSER).text
    number = served.certificate()
    asked = {"number": number.lower().replace("-", " ")}
    found = served.client.get("/verify", params=asked, headers=BROWSER, follow_redirects=False)
    assert (found.status_code, found.headers["location"]) == (303, f"/verify/{number}?lang=zh")
    assert served.client.get("/verify", params={"number": "x"}).status_code == 422


def test_a_name_is_compared_and_never_shown(served: Town) -> None:
    number = served.certificate()
    assert compared(served, number, name=f" {NAME} ").json()["name_check"] == "matches"
    assert compared(served, number, name="王桂花").json()["name_check"] == "differs"
    whole = compared(served, number, name=NAME, id_number=id_number().lower())
    assert whole.json()["name_check"] == "matches"
    assert compared(served, number, name=NAME, id_number=id_number(777)).json()["name_check"] == "differs"
    assert compared(served, number, name=NAME, id_number="1").json()["name_check"] == "differs"
    assert compared(served, number).json()["name_check"] is None
    form = served.client.post(f"/verify/{number}?lang=zh", headers=BROWSER, data={"name": NAME})
    assert "姓名与证明一致" in form.text
    assert found_in(form.text.encode()) == []


def test_a_document_is_known_by_its_digest(served: Town) -> None:
    number = served.certificate()
    digest = hashlib.sha256(served.printed(number)).hexdigest()
    assert compared(served, number, sha256=digest).json()["document_known"] is True
    assert compared(served, number, sha256="0" * 64).json()["document_known"] is False
    assert told(served, number)["document_known"] is None


def test_after_ten_wrong_names_none_is_compared_for_an_hour(served: Town) -> None:
    number, other = served.certificate(), served.certificate()
    for _ in range(10):
        assert compared(served, number, name="李四").status_code == 200
    refused = compared(served, number, name=NAME)
    assert (refused.status_code, refused.json()["code"]) == (429, "TOO_MANY_NAMES")
    assert int(refused.headers["Retry-After"]) == 3600
    form = served.client.post(f"/verify/{number}", headers=BROWSER, data={"name": NAME})
    assert (form.status_code, form.headers["Retry-After"]) == (429, "3600")
    assert compared(served, other, name=NAME).json()["name_check"] == "matches"
    assert told(served, number)["name_check"] is None
    served.wait(hours=1, seconds=1)
    assert compared(served, number, name=NAME).json()["name_check"] == "matches"


def test_what_was_opened_for_the_public_is_written_down(served: Town) -> None:
    number = served.certificate()
    told(served, number)
    log = served.seen(f"/volunteers/{name('wang')}/access-log", "wang")["accesses"]
    public = [access for access in log if access["role"] == "public"]
    assert [access["topic"] for access in public] == ["certificate.issued"]


def test_of_an_erased_or_restricted_person_not_even_a_mask_is_left(served: Town) -> None:
    """T51"""
    number = served.certificate()
    decided(served, "restriction")
    assert told(served, number)["masked_name"] == "〔已限制〕"
    assert compared(served, number, name=NAME).json()["name_check"] is None
    request_id = decided(served, "erasure")
    served.done(f"/data-requests/{request_id}/erase", "admin", {})
    shown = told(served, number)
    assert (shown["status"], shown["minutes"], shown["masked_name"]) == ("valid", 140, None)
    assert compared(served, number, name=NAME).json()["name_check"] is None
    assert "〔已删除〕" in served.client.get(f"/verify/{number}", headers=BROWSER).text


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 422),
        (b'{"name": 7}', "application/json", 422),
        (b'{"surname": "x"}', "application/json", 422),
        (b'{"sha256": "x"}', "application/json", 422),
        (b"name=" + b"x" * 51, "application/x-www-form-urlencoded", 422),
        (b"name=\xff", "application/x-www-form-urlencoded", 422),
        (b"a=1&" * 20, "application/x-www-form-urlencoded", 422),
        (b"name=" + b"x" * 5000, "application/x-www-form-urlencoded", 413),
        (b"", "application/x-www-form-urlencoded", 200),
        (b'{"name": "\\ud800"}', "application/json", 400),
    ],
)
def test_a_doubt_that_is_none_is_refused(served: Town, body: bytes, kind: str, status: int) -> None:
    number = served.certificate()
    answer = served.client.post(f"/verify/{number}", headers=JSON | {"Content-Type": kind}, content=body)
    assert answer.status_code == status, answer.text
    page = served.client.post(f"/verify/{number}", headers=BROWSER | {"Content-Type": kind}, content=body)
    assert page.status_code == status


def test_one_address_checks_so_many_and_then_waits(served: Town) -> None:
    number = served.certificate()
    served.app.state.checks = Limit(lambda: 0.0)
    codes = [
        served.client.get(f"/verify/{number}", headers=JSON).status_code for _ in range(CHECKS_PER_MINUTE + 5)
    ]
    assert codes[:CHECKS_PER_MINUTE] == [200] * CHECKS_PER_MINUTE
    assert codes[-1] == 429
    refused = served.client.get(f"/verify/{number}", headers=JSON)
    assert refused.json()["code"] == "TOO_MANY_REQUESTS"
    assert int(refused.headers["Retry-After"]) >= 1
    assert served.client.get(f"/verify/{number}", headers=BROWSER).status_code == 429
    assert served.get("/units", "wang").status_code == 200


def test_a_bucket_fills_again_and_strangers_do_not_share_one() -> None:
    now = 0.0
    limit = Limit(lambda: now)
    for _ in range(CHECKS_PER_MINUTE):
        limit.take("a")
    with pytest.raises(TooManyRequestsError):
        limit.take("a")
    limit.take("b")
    now = 1.0
    limit.take("a")
    with pytest.raises(TooManyRequestsError) as refused:
        limit.take("a")
    assert refused.value.details["retry_seconds"] == 1
    for number in range(ADDRESSES_MAX):
        limit.take(str(number))
    limit.take("a")  # forgotten, as the longest unseen
