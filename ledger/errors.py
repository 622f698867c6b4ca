"""Every way the ledger says no: a stable code, a sentence in Chinese and in English, and what to do about it.

`Refusal` is the answer to a request that may not be done; it loses nothing and records nothing.
`LedgerError` is trouble with the ledger itself (missing, of another schema, busy, damaged).
Codes never change their meaning; `api/problems.py` holds the one table that turns them into HTTP.
"""

from collections.abc import Sequence
from typing import ClassVar


class ExpectedError(Exception):
    """An expected error: ``code`` for programs, ``zh`` / ``en`` for people, ``details`` for both (never a name)."""

    code: ClassVar[str]
    zh: ClassVar[str]
    en: ClassVar[str]

    def __init__(self, **details: object) -> None:
        self.details = details
        super().__init__(self.sentence_en)

    @property
    def sentence_zh(self) -> str:
        return self.zh.format_map(_Words(self.details))

    @property
    def sentence_en(self) -> str:
        return self.en.format_map(_Words(self.details))


class _Words(dict[str, object]):
    def __init__(self, details: dict[str, object]) -> None:
        super().__init__(
            {k: ", ".join(map(str, v)) if isinstance(v, (list, tuple)) else v for k, v in details.items()}
        )

    def __missing__(self, key: str) -> str:
        return "?"


class Refusal(ExpectedError):
    """A request that may not be done."""


class LedgerError(ExpectedError):
    """Trouble with the ledger itself."""


class Offences(Refusal):
    """Several refusals of one command, each naming its offender; the code is the first one's.

    ``details["offenders"]`` is a list of ``{"code", "zh", "en", …details}`` in the order of the request.
    """

    code = "SEVERAL"
    zh = "{first_zh}（共 {count} 处不符合）"
    en = "{first_en} ({count} offenders in all)"

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        self.refusals = tuple(refusals)
        first = refusals[0]
        super().__init__(
            first_zh=first.sentence_zh,
            first_en=first.sentence_en,
            count=len(refusals),
            offenders=[
                {"code": r.code, "zh": r.sentence_zh, "en": r.sentence_en, **r.details} for r in refusals
            ],
        )
        self.code = first.code  # type: ignore[misc]


def refuse_all(refusals: Sequence[Refusal]) -> None:
    """Raise what was found: nothing for none, the refusal itself for one, `Offences` for several."""
    if len(refusals) == 1:
        raise refusals[0]
    if refusals:
        raise Offences(refusals)


# --- who asks --------------------------------------------------------------------------------------------------------


class WrongRoleError(Refusal):
    code = "WRONG_ROLE"
    zh = "您的角色（{role}）不能做这件事；需要：{needed}。请由有权限的人员办理。"
    en = "Your role ({role}) may not do this; it needs one of: {needed}. Ask somebody who holds it."


class OutsideSubtreeError(Refusal):
    code = "OUTSIDE_YOUR_UNITS"
    zh = "单位 {unit_id} 不在您管辖的范围内。请由该单位或其上级办理。"
    en = "Unit {unit_id} is outside the units you act for. Ask that unit or one above it."


class NotYourselfError(Refusal):
    code = "ONLY_THEMSELVES"
    zh = "只有本人可以这样做（条例第 25 条：不得强制）。请由本人登录操作。"
    en = "Only the person themself may do this: nobody is assigned without their own consent (L05)."


class SelfApprovalError(Refusal):
    code = "SELF_APPROVAL"
    zh = "申请人、服务者或记录人本人不能审批。请由另一人办理。"
    en = "The person who asked, served or recorded may not also decide. Another person must (F08, F09)."


class SelfRecordingError(Refusal):
    code = "SELF_RECORDING"
    zh = "记录人不能记录自己的服务时长。请由另一人记录。"
    en = "Nobody records their own service. Another person must record it (F08)."


class RaterNotIndependentError(Refusal):
    code = "RATER_NOT_INDEPENDENT"
    zh = "评单人不能是服务者本人、其队长、记录人，也不能与服务者共用电话。"
    en = "The rater may not be one who served, their team leader, the recorder, or share a phone with one who served (F06)."


# --- unknown things --------------------------------------------------------------------------------------------------


class UnknownUnitError(Refusal):
    code = "UNKNOWN_UNIT"
    zh = "没有编号为 {id} 的单位。请核对单位编号。"
    en = "There is no unit {id}. Check the unit's id."


class UnknownTeamError(Refusal):
    code = "UNKNOWN_TEAM"
    zh = "没有编号为 {id} 的队伍。请核对队伍编号。"
    en = "There is no team {id}. Check the team's id."


class UnknownVolunteerError(Refusal):
    code = "UNKNOWN_VOLUNTEER"
    zh = "没有编号为 {id} 的志愿者；每一小时都要记在具名的人名下。请先登记或核对编号。"
    en = "There is no volunteer {id}; every hour belongs to a named person (F13). Enrol them first or check the id."


class UnknownOrderError(Refusal):
    code = "UNKNOWN_ORDER"
    zh = "没有编号为 {id} 的点单。请核对点单编号。"
    en = "There is no order {id}. Check the order's id."


class UnknownSessionError(Refusal):
    code = "UNKNOWN_SESSION"
    zh = "该志愿者名下没有编号为 {id} 的服务记录。"
    en = "This volunteer has no session {id}."


class UnknownRequestError(Refusal):
    code = "UNKNOWN_REQUEST"
    zh = "该志愿者名下没有编号为 {id} 的申请。"
    en = "This volunteer has no request {id}."


class UnknownRatingError(Refusal):
    code = "UNKNOWN_RATING"
    zh = "该点单没有编号为 {id} 的评价。"
    en = "This order has no rating {id}."


class NotFoundError(Refusal):
    code = "NOT_FOUND"
    zh = "没有找到 {what}。"
    en = "There is no {what}."


# --- the state of things ---------------------------------------------------------------------------------------------


class NotAllowedNowError(Refusal):
    code = "NOT_ALLOWED_NOW"
    zh = "当前状态为“{status}”，不能{action}。现在可以：{allowed}。"
    en = "It is {status} now, so it cannot take {action}. Allowed now: {allowed}."

    def __init__(self, *, status: str, action: str, allowed: Sequence[str], **more: object) -> None:
        super().__init__(status=status, action=action, allowed=list(allowed) or ["—"], **more)


class AlreadyExistsError(Refusal):
    code = "ALREADY_EXISTS"
    zh = "{what} 已经存在（{id}），不能重复建立。"
    en = "{what} exists already ({id}); there can be only one."


class UnknownDataRequestError(Refusal):
    code = "UNKNOWN_DATA_REQUEST"
    zh = "没有编号为 {id} 的个人信息申请。"
    en = "There is no data-subject request {id}."


class UnknownCertificateError(Refusal):
    code = "UNKNOWN_CERTIFICATE"
    zh = "没有编号为 {number} 的证明。请核对编号。"
    en = "There is no certificate {number}. Compare the number with what is printed."


class UnknownIssuerKeyError(Refusal):
    code = "UNKNOWN_ISSUER_KEY"
    zh = "没有登记编号为 {id} 的签发密钥。请先由管理员登记。"
    en = "No issuer key {id} is registered. An administrator registers it first (F25)."


class AlreadyMemberError(Refusal):
    code = "ALREADY_MEMBER"
    zh = "志愿者 {volunteer_id} 已经在这支队伍中。"
    en = "Volunteer {volunteer_id} is a member of this team already."


class NotMemberError(Refusal):
    code = "NOT_MEMBER"
    zh = "志愿者 {volunteer_id} 不在这支队伍中。"
    en = "Volunteer {volunteer_id} is not a member of this team."


class NotAcceptedError(Refusal):
    code = "NOT_ACCEPTED"
    zh = "志愿者 {volunteer_id} 没有接这一单（状态：{status}）。只能由本人先接单。"
    en = "Volunteer {volunteer_id} has not accepted this order (status: {status}). They must accept it themself first."


class NotOfferedError(Refusal):
    code = "NOT_OFFERED"
    zh = "这一单没有待志愿者 {volunteer_id} 答复的派单（状态：{status}）。"
    en = "Volunteer {volunteer_id} has no open offer for this order (status: {status})."


class VolunteerWithdrawnError(Refusal):
    code = "VOLUNTEER_WITHDRAWN"
    zh = "志愿者 {volunteer_id} 已经退出，不能再参加。"
    en = "Volunteer {volunteer_id} has withdrawn and takes no further part."


class AlreadyDecidedError(Refusal):
    code = "ALREADY_DECIDED"
    zh = "申请 {request_id} 已经有了决定（{verdict}），不能再次决定。"
    en = "Request {request_id} has been decided already ({verdict}); a second decision is refused (F35)."


class AlreadyRatedError(Refusal):
    code = "ALREADY_RATED"
    zh = "您已经评过这一单（{rating_id}）。如要修改，请先撤回原评价。"
    en = "You have rated this order already ({rating_id}). Withdraw that rating first to give another."


class UnitTreeError(Refusal):
    code = "UNIT_TREE"
    zh = "{kind} 不能设在 {parent_kind} 之下，或行政区划代码不匹配（{division_code}）。"
    en = "A {kind} cannot stand under a {parent_kind}, or its division code {division_code} does not fit there."


class RoleConflictError(Refusal):
    code = "ROLE_CONFLICT"
    zh = "同一人不能在一个单位同时任正职和副职，职务 {role} 与现有任职冲突。"
    en = "The post {role} conflicts with a post this person or another holds in the unit (S015: head and deputy differ)."


class TeamShapeError(Refusal):
    code = "TEAM_SHAPE"
    zh = "{kind} 队伍的类别（{category}）、所属单位或上级队伍不符合规定。允许的类别：{allowed}。"
    en = "A {kind} team with category {category} does not fit that unit or parent team. Categories allowed: {allowed}."


class UnknownCategoryError(Refusal):
    code = "UNKNOWN_CATEGORY"
    zh = "规则手册没有“{category}”这一类别。"
    en = "The rule book knows no category {category}."


class VersionMismatchError(Refusal):
    code = "VERSION_MISMATCH"
    zh = "{stream_id} 已经到了第 {current_version} 版，您依据的是第 {expected_version} 版。请重新读取后再办理。"
    en = "{stream_id} is at version {current_version}, you expected {expected_version}. Read it again, then decide."


# --- times and minutes -----------------------------------------------------------------------------------------------


class EndBeforeStartError(Refusal):
    code = "END_BEFORE_START"
    zh = "结束时间不晚于开始时间。请核对起止时间。"
    en = "The end is not after the start. Check both times."


class InFutureError(Refusal):
    code = "IN_FUTURE"
    zh = "服务尚未开始（{started_at}），不能登记将来的时长。"
    en = "The service has not begun ({started_at}); hours of the future are not recorded (F04)."


class RecordedBeforeEndError(Refusal):
    code = "RECORDED_BEFORE_END"
    zh = "登记时间（{now}）早于服务结束时间（{ended_at}），登记不能先于服务。"
    en = "Recorded at {now}, before the service ended at {ended_at}: hours cannot be bought ahead of time (F03)."


class BackfillRequiredError(Refusal):
    code = "BACKFILL_REQUIRED"
    zh = "志愿者 {volunteer_id} 的点单或接单登记晚于服务开始，只能走补录并由另一人审批。"
    en = "For volunteer {volunteer_id} the order or acceptance was recorded after the service began; use a back-fill, which another person decides (F03)."


class OverlapError(Refusal):
    code = "OVERLAP"
    zh = "志愿者 {volunteer_id} 在这段时间已有服务记录（{session_id}），一人不能同时在两处。"
    en = "Volunteer {volunteer_id} already served then (session {session_id}); nobody is in two places at once (F01)."


class SessionTooLongError(Refusal):
    code = "SESSION_TOO_LONG"
    zh = "一次服务为 {minutes} 分钟，超过上限 {minutes_max} 分钟。请按实际分次登记。"
    en = "The session lasts {minutes} minutes, more than the {minutes_max} allowed. Record what was really served."


class SessionTooShortError(Refusal):
    code = "SESSION_TOO_SHORT"
    zh = "扣除休息后只有 {minutes} 分钟，少于下限 {minutes_min} 分钟。"
    en = "After breaks {minutes} minutes remain, fewer than the {minutes_min} that count."


class DayNeedsApprovalError(Refusal):
    code = "DAY_NEEDS_APPROVAL"
    zh = (
        "志愿者 {volunteer_id} 在 {served_on} 将达到 {minutes} 分钟，超过 {minutes_free} 分钟，须经上级审批。"
    )
    en = "Volunteer {volunteer_id} would reach {minutes} minutes on {served_on}, above the {minutes_free} that count without approval (F02)."


class DayCapError(Refusal):
    code = "DAY_CAP"
    zh = "志愿者 {volunteer_id} 在 {served_on} 将达到 {minutes} 分钟，超过一天的上限 {minutes_max} 分钟。"
    en = "Volunteer {volunteer_id} would reach {minutes} minutes on {served_on}; a day has no more than {minutes_max} (F02)."


class WindowError(Refusal):
    code = "BAD_WINDOW"
    zh = "希望的服务时段不成立：{problem_zh}。"
    en = "The wanted time does not hold: {problem_en}."


class PeriodError(Refusal):
    code = "BAD_PERIOD"
    zh = (
        "从 {first_on} 到 {last_on} 不能作为证明的时段：起始日不得晚于截止日，截止日不得晚于今天（{today}）。"
    )
    en = (
        "A certificate cannot cover {first_on} to {last_on}: it begins no later than it ends, and ends today at "
        "the latest ({today})."
    )


class NothingToCertifyError(Refusal):
    code = "NOTHING_TO_CERTIFY"
    zh = "从 {first_on} 到 {last_on} 没有计入的服务时长，不能开具证明。"
    en = "No minutes count from {first_on} to {last_on}, so there is nothing to certify (L18: truthful)."


class NoRuleBookError(Refusal):
    code = "NO_RULE_BOOK"
    zh = "{day} 没有生效的规则手册，无法判断时长。请先发布规则手册。"
    en = "No rule book is in force on {day}, so nothing can be judged. Publish one first."


class RuleBookDateError(Refusal):
    code = "RULE_BOOK_DATE"
    zh = "规则手册只能在发布之后生效（最早 {earliest}），且版本号须为 {next_version}。"
    en = "A rule book takes effect after it is published ({earliest} at the earliest), as version {next_version}."


class ScoreOutOfRangeError(Refusal):
    code = "SCORE_OUT_OF_RANGE"
    zh = "评分须在 {rating_min} 到 {rating_max} 之间，或留空表示无法判断。"
    en = "A score lies between {rating_min} and {rating_max}, or is null for “could not judge”."


# --- requests --------------------------------------------------------------------------------------------------------


class InvalidRequestError(Refusal):
    code = "INVALID_REQUEST"
    zh = "请求内容不符合要求：{problem}。"
    en = "The request is not valid: {problem}."


class KeyReusedError(Refusal):
    code = "KEY_REUSED"
    zh = "这个幂等键已经用于另一个请求。请为新的请求换一个键。"
    en = "This idempotency key was used for another request. Use a new key for a new request."


class KeyInFlightError(Refusal):
    code = "KEY_IN_FLIGHT"
    zh = "同一请求正在处理中。请稍后用同一个键重试。"
    en = "The same request is being handled now. Try again shortly with the same key."


class IdentityTakenError(Refusal):
    code = "IDENTITY_TAKEN"
    zh = "这个身份证件号码已经登记过志愿者。一人只登记一次。"
    en = "This identity number belongs to an enrolled volunteer already; one person, one account (F12)."


# --- the ledger itself -----------------------------------------------------------------------------------------------


class LedgerMissingError(LedgerError):
    code = "LEDGER_MISSING"
    zh = "{database} 中没有账本。请先运行 wenming init。"
    en = "There is no ledger in {database}. Create one with: wenming init --database …"


class LedgerExistsError(LedgerError):
    code = "LEDGER_EXISTS"
    zh = "{database} 中已经有账本，不会重建。"
    en = "{database} holds a ledger already; it is not created again."


class NotALedgerError(LedgerError):
    code = "NOT_A_LEDGER"
    zh = "{database} 不是本系统的账本数据库：{problem}。"
    en = "{database} is not one of our ledgers: {problem}."


class SchemaMismatchError(LedgerError):
    code = "SCHEMA_MISMATCH"
    zh = "{database} 的结构版本是 {found}，本程序需要 {expected}。请使用相应版本的程序。"
    en = "{database} has schema {found}, this program needs {expected}. Use the matching program."


class LedgerBusyError(LedgerError):
    code = "LEDGER_BUSY"
    zh = "账本正被占用，等待 {seconds} 秒后放弃。什么都没有写入；请用同一个键重试。"
    en = (
        "The ledger was held by another writer for {seconds} s. Nothing was written; retry with the same key."
    )


class ClockBehindError(LedgerError):
    code = "CLOCK_BEHIND"
    zh = "本机时钟比账本最后记录时间慢 {seconds} 秒。请先校准时钟。"
    en = "This machine's clock is {seconds} s behind the ledger's last record. Set the clock first."


class UnreadableFactError(LedgerError):
    code = "UNREADABLE_FACT"
    zh = "账本中有无法读取的事实（{topic}，位置 {position}）：{problem}。"
    en = "A fact cannot be read ({topic}, position {position}): {problem}."


class LedgerDamagedError(LedgerError):
    code = "LEDGER_DAMAGED"
    zh = "账本第 {position} 条不完好：{problem}。请运行 wenming verify。"
    en = "The ledger is damaged at position {position}: {problem}. Run wenming verify."


# --- checkpoints and their keys --------------------------------------------------------------------------------------


class NoteMalformedError(LedgerError):
    code = "NOTE_MALFORMED"
    zh = "签名文本格式不正确：{problem}。请重新获取。"
    en = "The signed note is malformed: {problem}. Fetch it again from its source."


class CheckpointMalformedError(LedgerError):
    code = "CHECKPOINT_MALFORMED"
    zh = "检查点格式不正确：{problem}。请重新获取。"
    en = "The checkpoint is malformed: {problem}. Fetch it again from its source."


class SignatureWrongError(LedgerError):
    code = "SIGNATURE_WRONG"
    zh = "已知密钥 {key} 的签名与文本不符：内容或签名被改动过，不可采信。"
    en = "The signature of the known key {key} does not fit the text: one of them was altered. Trust neither."


class NoTrustedSignatureError(LedgerError):
    code = "NO_TRUSTED_SIGNATURE"
    zh = "没有任何已知密钥的签名（需要：{needed}），内容不可采信。"
    en = "None of the known keys signed this (needed: {needed}), so nothing in it can be trusted."


class WrongOriginError(LedgerError):
    code = "WRONG_ORIGIN"
    zh = "这是另一个账本（{found}）的检查点，不是 {expected} 的。"
    en = "This is a checkpoint of another log ({found}), not of {expected}."


class NoteKeyMalformedError(LedgerError):
    code = "NOTE_KEY_MALFORMED"
    zh = "签名密钥不可用：{problem}。请核对密钥文本。"
    en = "The signing or verifying key cannot be used: {problem}. Check the key's text."


class NoteKeysAmbiguousError(LedgerError):
    code = "NOTE_KEYS_AMBIGUOUS"
    zh = "两个不同的已知密钥同名同号（{key}），无法分辨签名属于谁。请去掉一个。"
    en = "Two different known keys share a name and an id ({key}), so signatures cannot be told apart. Remove one."


class ProofWrongError(LedgerError):
    code = "PROOF_WRONG"
    zh = "证明不成立：{problem}。请向出具者重新索取。"
    en = "The proof does not hold: {problem}. Ask for it again where it came from."


class NotSignedYetError(Refusal):
    code = "NOT_SIGNED_YET"
    zh = "第 {position} 条事实还不在大小为 {size} 的检查点之内。请等下一个检查点。"
    en = "The fact at position {position} is not covered by the checkpoint of size {size}. Wait for the next one."


class UnknownCheckpointError(Refusal):
    code = "UNKNOWN_CHECKPOINT"
    zh = "没有发布过大小为 {size} 的检查点。"
    en = "No checkpoint of size {size} was published."


class CertificateNumberWrongError(Refusal):
    code = "CERTIFICATE_NUMBER_WRONG"
    zh = "证明编号有误。请对照证明逐字核对，编号形如 {form}。"
    en = "This is no certificate number: a character is wrong. Compare it with the certificate; it looks like {form}."


class CertificateWrongError(LedgerError):
    code = "CERTIFICATE_WRONG"
    zh = "这份证明不可采信：{problem_zh}。请向出具单位核实。"
    en = "This certificate is not to be trusted: {problem_en}. Ask the unit that is named as its issuer."


class GlyphMissingError(Refusal):
    code = "GLYPH_MISSING"
    zh = "证明所用的字体没有这些字：{characters}。请改用规范汉字，或联系管理员补充字体。"
    en = "The certificate's typefaces lack {characters}. Correct the text, or ask the administrator for another typeface."


class SignerRunningError(LedgerError):
    code = "SIGNER_RUNNING"
    zh = "另一个签名进程正在使用状态文件 {file}。"
    en = "Another signer is using the state file {file}."


class SignerHaltedError(LedgerError):
    """The signer signs nothing more until somebody has looked: ``reason`` is one of `ledger.signer.HALTS`."""

    code = "SIGNER_HALTED"
    zh = "签名已停止（{reason}，第 {position} 条）：{problem_zh} 查明原因之后才可用 wenming sign --reset 解除。"
    en = "Signing has halted ({reason}, position {position}): {problem_en} Once the cause is known: wenming sign --reset"


class CosignaturesTooFewError(LedgerError):
    code = "COSIGNATURES_TOO_FEW"
    zh = "大小为 {size} 的检查点只有 {count} 个已知见证人副署（{found}），要求至少 {minimum} 个。请稍后重试，或查明见证人为何没有副署。"
    en = "The checkpoint of size {size} is cosigned by {count} known witnesses ({found}); at least {minimum} are asked for. Try again later, or find out why the others did not."


class WitnessRequestMalformedError(Refusal):
    code = "WITNESS_REQUEST_MALFORMED"
    zh = "副署请求格式不正确：{problem}。"
    en = "The request to cosign is malformed: {problem}. Write it as c2sp.org/tlog-witness says."


class WitnessLogUnknownError(Refusal):
    code = "WITNESS_LOG_UNKNOWN"
    zh = "本见证人不认识账本 {origin}。请把该账本的公钥交给见证人。"
    en = "This witness does not know the log {origin}. Give the log's public key to whoever runs the witness."


class WitnessElsewhereError(Refusal):
    """``size`` is that of the newest checkpoint that the witness cosigned."""

    code = "WITNESS_ELSEWHERE"
    zh = "本见证人已副署 {origin} 到大小 {size}，不是 {asked}。请从 {size} 起给出证明。"
    en = "This witness has cosigned {origin} up to size {size}, not {asked}. Prove from {size} on."


class CheckpointInconsistentError(Refusal):
    code = "CHECKPOINT_INCONSISTENT"
    zh = "账本 {origin} 大小为 {size} 的检查点不是已副署的（大小 {old_size}）增长而来：{problem}。不予副署，请查明原因。"
    en = "The checkpoint of size {size} of {origin} is not the cosigned one (size {old_size}) grown: {problem}. It is not cosigned; find out why."


class WitnessRunningError(LedgerError):
    code = "WITNESS_RUNNING"
    zh = "另一个见证进程正在使用状态目录 {folder}。"
    en = "Another witness is using the state folder {folder}."


class WitnessStateDamagedError(LedgerError):
    code = "WITNESS_STATE_DAMAGED"
    zh = "见证状态 {file} 无法读取，或不是用现有密钥副署的。请从备份恢复；删除它等于忘记见过什么。"
    en = "The witness's state {file} cannot be read, or none of its keys cosigned it. Restore it or the key; to delete it is to forget what was seen."


class ArchiveWrongError(LedgerError):
    code = "ARCHIVE_WRONG"
    zh = "存档分段 {segment} 不可用：{problem}。请运行 wenming archive 重写；删除整个存档目录也不会丢失任何事实。"
    en = "The archived segment {segment} cannot be used: {problem}. Write it anew with: wenming archive (no fact is lost, even if the whole directory is deleted)."


class BundleWrongError(LedgerError):
    code = "BUNDLE_WRONG"
    zh = "证据包不可用（{place}）：{problem}。请向出具者重新索取。"
    en = "The bundle cannot be used ({place}): {problem}. Ask for it again where it came from."


class BundleExistsError(Refusal):
    code = "BUNDLE_EXISTS"
    zh = "文件 {file} 已存在，不会被覆盖：较早的证据包本身就是证据。请换一个文件名。"
    en = "The file {file} exists already and is not overwritten: an earlier bundle is evidence. Choose another name."


# --- personal data and its keys --------------------------------------------------------------------------------------


class IdNumberInvalidError(Refusal):
    code = "ID_NUMBER_INVALID"
    zh = "身份证件号码不正确：{problem_zh}。请对照证件核对。"
    en = "The identity number is not right: {problem_en}. Check it against the document."


class PhoneInvalidError(Refusal):
    code = "PHONE_INVALID"
    zh = "电话号码不完整或不正确。请填写手机号，或带区号的座机号。"
    en = "The phone number is incomplete or wrong. Give a mobile number, or a landline with its area code."


class SubjectErasedError(Refusal):
    code = "SUBJECT_ERASED"
    zh = "当事人 {subject_id} 的个人信息已经删除，不能再为其保存个人信息。"
    en = "The personal data of {subject_id} were erased; nothing personal is kept for them any more."


class SubjectRestrictedError(Refusal):
    code = "SUBJECT_RESTRICTED"
    zh = "当事人 {subject_id} 已要求限制处理其个人信息，暂不能新增或更改。请先由本人申请解除限制。"
    en = "{subject_id} had the use of their personal data restricted, so none are added or changed. They may ask for its release first."


class SealBrokenError(LedgerError):
    code = "SEAL_BROKEN"
    zh = "密封的个人信息打不开（{topic}）：内容被改动，或本不属于这里。"
    en = "Sealed text cannot be opened as {topic}: it was altered, or sealed for another place."


class KeyUnknownError(LedgerError):
    code = "KEY_UNKNOWN"
    zh = "密钥库 {database} 中从未有过 {subject_id} 的密钥。请检查是否用了别的账本的密钥库。"
    en = "The key store {database} never held a key of {subject_id}. Is it the key store of another ledger?"


class KeyStoreMissingError(LedgerError):
    code = "KEY_STORE_MISSING"
    zh = "{database} 中没有密钥库。请先运行 wenming init；如果账本已有事实，请从备份恢复密钥库。"
    en = "There is no key store in {database}. Create it with wenming init; if the ledger holds facts, restore it from its backup."


class KeyStoreExistsError(LedgerError):
    code = "KEY_STORE_EXISTS"
    zh = "{database} 中已经有密钥库，不会重建。"
    en = "{database} holds a key store already; it is not created again."


class NotAKeyStoreError(LedgerError):
    code = "NOT_A_KEY_STORE"
    zh = "{database} 不是本系统的密钥库：{problem}。"
    en = "{database} is not one of our key stores: {problem}."


class KeyStoreDamagedError(LedgerError):
    code = "KEY_STORE_DAMAGED"
    zh = "密钥库 {database} 不完好：{problem}。请从备份恢复。"
    en = "The key store {database} is damaged: {problem}. Restore it from its backup."


class MasterKeyInvalidError(LedgerError):
    code = "MASTER_KEY_INVALID"
    zh = "主密钥不可用：{problem}。"
    en = "The master key cannot be used: {problem}."


class WrongMasterKeyError(LedgerError):
    code = "WRONG_MASTER_KEY"
    zh = "主密钥打不开密钥库 {database}。如果刚更换过主密钥，请使用新的（中断的更换把它留在 .next 文件里）。"
    en = "This master key does not open {database}. After a rotation use the new one (an interrupted rotation leaves it in the .next file)."


# --- facts leaving ---------------------------------------------------------------------------------------------------


class MessageMalformedError(LedgerError):
    code = "MESSAGE_MALFORMED"
    zh = "这条消息不是账本发出的样子：{problem}。请核对它来自哪个主题，必要时从账本重新发送。"
    en = "This message is not as a ledger sends it: {problem}. Check which topic it came from; the ledger can send it anew."


class KafkaUnreachableError(LedgerError):
    code = "KAFKA_UNREACHABLE"
    zh = "连不上 Kafka（{servers}）：{problem}。请核对 WENMING_KAFKA_BOOTSTRAP 的地址和端口，并确认服务已启动；账本不受影响。"
    en = "Kafka at {servers} cannot be reached: {problem}. Check the address in WENMING_KAFKA_BOOTSTRAP and that it runs; the ledger is not affected."


class KafkaRefusedError(LedgerError):
    code = "KAFKA_REFUSED"
    zh = "Kafka 拒绝了请求：{problem}。请核对账号、密码和访问控制（ACL）；账本不受影响，也没有发出任何事实。"
    en = "Kafka refused: {problem}. Check user, password and ACLs; the ledger is not affected and nothing was sent."


class TopicMissingError(LedgerError):
    code = "TOPIC_MISSING"
    zh = "Kafka 中没有主题 {topic}。请运行 wenming topic create。"
    en = "There is no topic {topic} on this Kafka. Run wenming topic create."


class TopicWrongError(LedgerError):
    code = "TOPIC_WRONG"
    zh = "主题 {topic} 的设置不对：{problem}。请由 Kafka 管理员更正，或换一个主题；没有发出任何事实。"
    en = "The topic {topic} is not as it must be: {problem}. Have it corrected by whoever runs Kafka, or use another topic; nothing was sent."


class TopicReplacedError(LedgerError):
    code = "TOPIC_REPLACED"
    zh = "主题 {topic} 已不是上次发送时的那一个（被删除后重建，或分区数变了）。请先查明原因；确认后运行 wenming relay --from-topic。"
    en = "The topic {topic} is not the one that was sent to before (made anew, or its partitions changed). Find out why; then run wenming relay --from-topic."


class RelayFencedError(LedgerError):
    code = "RELAY_FENCED"
    zh = "另一个转发进程接管了这本账（{transactional_id}），本进程停止。同一本账只需运行一个 wenming relay。"
    en = "Another relay took over this ledger ({transactional_id}), so this one stops. One wenming relay a ledger is enough."


class RelayLedgerDiffersError(LedgerError):
    code = "RELAY_LEDGER_DIFFERS"
    zh = "第 {position} 条已经发往 Kafka，但账本里{problem}：账本可能被恢复成旧备份或被改写。已停止发送。请核对备份并运行 wenming verify。"
    en = "Position {position} was sent to Kafka, but in the ledger {problem}: it was restored from an old backup, or rewritten. Nothing more is sent. Look at the backups and run wenming verify."


class RelayPositionLostError(LedgerError):
    code = "RELAY_POSITION_LOST"
    zh = "转发位置不见了，而主题 {topic} 里已有本账的 {count} 条，最后一条是第 {last} 条。为免重复，先不发送；确认主题完好后运行 wenming relay --from-topic。"
    en = "The relay's position is gone, and {topic} holds {count} facts of this ledger, the last at {last}. Nothing is sent twice: once the topic is known to be whole, run wenming relay --from-topic."


class RelayTopicHoleError(LedgerError):
    code = "RELAY_TOPIC_HOLE"
    zh = "主题 {topic} 里本账的事实不完整：到第 {last} 条应有 {last} 条，实有 {count} 条。请换一个新主题，从头发送。"
    en = "{topic} does not hold all facts of this ledger: up to {last} there are {count}. Use a new topic, and send from the beginning."


class EventTooLargeError(LedgerError):
    code = "EVENT_TOO_LARGE"
    zh = "第 {position} 条（{size} 字节）超过主题 {topic} 允许的大小。请调大 max.message.bytes 后再运行；没有跳过任何事实。"
    en = "The fact at position {position} ({size} bytes) is larger than {topic} takes. Raise its max.message.bytes and run the relay again; nothing was skipped."


class RelayTransactionHangsError(LedgerError):
    code = "RELAY_TRANSACTION_HANGS"
    zh = "Kafka 丢失了事务 {transactional_id} 的结束标记，它仍挂在 {where}。在此之前不发送，也不丢失任何事实。请停下本进程，用有权中止事务的账号运行 wenming relay --from-topic。"
    en = "Kafka lost the end of a transaction of {transactional_id}, which hangs in {where}. Nothing is sent until then, and nothing is lost. Stop this relay, and run wenming relay --from-topic as a user who may abort transactions."


class RelayPositionMissingError(LedgerError):
    code = "RELAY_POSITION_MISSING"
    zh = "主题 {topic} 还没有本账的转发位置。请运行 wenming relay。"
    en = "There is no position of this ledger for {topic} yet. Run wenming relay."


class RelayBehindError(LedgerError):
    code = "RELAY_BEHIND"
    zh = "转发落后 {facts} 条、{seconds} 秒。请查看 wenming relay 的日志。"
    en = "The topic is {facts} facts and {seconds} s behind. Look at the log of wenming relay."


class ContractBrokenError(Refusal):
    code = "CONTRACT_BROKEN"
    zh = "{file} 中已发布的约定会被破坏，未写入任何文件：{problem} 请给该事件一个新的版本，或换一个目录。"
    en = "What {file} promised would be broken, so nothing was written: {problem} Give the event a new version, or choose another folder."
