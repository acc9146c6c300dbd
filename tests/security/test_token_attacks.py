"""Every operation refuses a forged or unfit token with 401, and the log says why, but never the token."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.attacks import ALL, INVALID, SIGNERS, WITHOUT_TASK, call, parts, reasons
from support.forgeries import ATTACKS, EXPIRED, LEEWAY_SECONDS, Attack, raw_claims, trap, visitors
from support.issuer import Signer, claims, issuing
from support.operations import OPERATIONS
from support.people import SECRET
from support.service import running, running_process

KEYLESS = {"base64", "claims", "critical", "exp", "form", "header", "iat", "kid", "nbf", "sub", "type"}

TOKEN_ROWS = [
    pytest.param(SIGNERS[name], attack, id=f"{name}-{kind}")
    for kind, attack in ATTACKS.items()
    for name in attack.signers
    # What no key decides is tried once on each service, the rest with each kind of key.
    if kind.partition("/")[0] not in KEYLESS or name in ("HS256", "EdDSA")
]


@pytest.fixture(scope="module", autouse=True)
def _trap() -> Iterator[None]:
    yield
    trap().close()
    trap.cache_clear()


@pytest.mark.requirement("FR-02", "FR-03", "SR-01", "SR-04", "SR-11", "SC-02")
@pytest.mark.parametrize(("signer", "attack"), TOKEN_ROWS)
def test_no_operation_takes_the_token_and_the_log_says_why(
    client: httpx.Client, urls: dict[str, str], log: list[dict[str, Any]], signer: Signer, attack: Attack
) -> None:
    token = attack.forge(signer)
    authorization = f"Bearer {token}".encode("latin-1")

    answers = {
        operation: call(client, urls[signer.algorithm], operation, "alice", authorization) for operation in OPERATIONS
    }

    refused = {name: (answer.status_code, answer.headers.get("www-authenticate")) for name, answer in answers.items()}
    assert refused == dict.fromkeys(OPERATIONS, (401, INVALID))
    given = reasons(log, "authentication_failed")
    assert len(given) == len(OPERATIONS)
    assert [reason for reason in given if not re.fullmatch(attack.reason, reason)] == []
    assert visitors() == 0
    told = repr(log) + "".join(answer.text for answer in answers.values())
    assert [part for part in parts(token) if part in told] == []


STRICT = {"JWT_ISSUER": "https://issuer.example", "JWT_AUDIENCE": "taskpact", "JWT_LEEWAY_SECONDS": "10"}
EARLY = r"The token is not yet valid \({}\)"
NO_AUDIENCE = 'Token is missing the "aud" claim'

ISSUED: dict[str, tuple[dict[str, Any], str | None]] = {
    "issuer-and-audience": ({}, None),
    "audience-among-others": ({"aud": ["other", "taskpact"]}, None),
    "audience-missing": ({"aud": ...}, NO_AUDIENCE),
    "audience-null": ({"aud": None}, NO_AUDIENCE),
    "audience-empty": ({"aud": ""}, NO_AUDIENCE),
    "audience-an-empty-list": ({"aud": []}, NO_AUDIENCE),
    "audience-another": ({"aud": "other"}, "Audience doesn't match"),
    "audience-longer": ({"aud": "taskpact2"}, "Audience doesn't match"),
    "audience-shorter": ({"aud": "task"}, "Audience doesn't match"),
    "audience-in-other-case": ({"aud": "Taskpact"}, "Audience doesn't match"),
    "audience-look-alike": ({"aud": "tаskpact"}, "Audience doesn't match"),
    "audience-others": ({"aud": ["other", "task", "pact"]}, "Audience doesn't match"),
    "audience-nested": ({"aud": [["taskpact"]]}, "Invalid claim format in token"),
    "audience-among-numbers": ({"aud": ["taskpact", 1]}, "Invalid claim format in token"),
    "audience-an-object": ({"aud": {"taskpact": 1}}, "Invalid claim format in token"),
    "audience-a-number": ({"aud": 1}, "Invalid claim format in token"),
    "issuer-missing": ({"iss": ...}, 'Token is missing the "iss" claim'),
    "issuer-null": ({"iss": None}, 'Token is missing the "iss" claim'),
    "issuer-another": ({"iss": "https://evil.example"}, "Invalid issuer"),
    "issuer-empty": ({"iss": ""}, "Invalid issuer"),
    "issuer-with-slash": ({"iss": "https://issuer.example/"}, "Invalid issuer"),
    "issuer-within-another": ({"iss": "https://issuer.example.evil.example"}, "Invalid issuer"),
    "issuer-part": ({"iss": "https://issuer"}, "Invalid issuer"),
    "issuer-in-other-case": ({"iss": "https://Issuer.example"}, "Invalid issuer"),
    "issuer-a-list": ({"iss": ["https://issuer.example"]}, r"Payload Issuer \(iss\) must be a string"),
    "expired-within-leeway": ({"exp": -7}, None),
    "expired-exactly-at-leeway": ({"exp": -10}, EXPIRED),
    "expired-beyond-leeway": ({"exp": -11}, EXPIRED),
    "early-within-leeway": ({"nbf": 10}, None),
    "early-beyond-leeway": ({"nbf": 30}, EARLY.format("nbf")),
    "issued-in-a-second": ({"iat": 1}, None),
    "issued-in-a-year": ({"iat": 31_536_000}, None),
    "issued-in-a-year-but-not-yet-valid": ({"iat": 31_536_000, "nbf": 30}, EARLY.format("nbf")),
    "issued-after-it-expired": ({"iat": 30, "exp": -11}, EXPIRED),
}


@pytest.fixture(scope="module")
def strict_urls(database_url: str, logged: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """Services that want an issuer and an audience, and grant ten seconds: with the secret and with the key set."""
    del logged
    with (
        issuing(SIGNERS["EdDSA"]) as issuer,
        running(database_url, **STRICT) as secret_url,
        running(database_url, **STRICT, JWT_JWKS_URL=issuer.url) as keys_url,
    ):
        yield {"HS256": secret_url, "EdDSA": keys_url}


@pytest.mark.requirement("FR-02", "FR-03", "SR-11", "SR-15", "SC-02")
@pytest.mark.parametrize("signer", ["HS256", "EdDSA"])
@pytest.mark.parametrize(("others", "reason"), ISSUED.values(), ids=ISSUED)
def test_configured_issuer_audience_and_leeway_hold_on_every_operation(
    client: httpx.Client,
    strict_urls: dict[str, str],
    log: list[dict[str, Any]],
    others: dict[str, Any],
    reason: str | None,
    signer: str,
) -> None:
    now = int(time.time())
    times = {name: now + value for name, value in others.items() if name in ("exp", "nbf", "iat")}
    token = SIGNERS[signer].token(payload=claims(**({"iss": STRICT["JWT_ISSUER"], "aud": "taskpact"} | others | times)))

    statuses = {
        operation: call(client, strict_urls[signer], operation, "alice", f"Bearer {token}").status_code
        for operation in OPERATIONS
    }

    if reason is None:
        assert statuses == WITHOUT_TASK
    else:
        assert statuses == dict.fromkeys(OPERATIONS, 401)
        given = reasons(log, "authentication_failed")
        assert [bool(re.fullmatch(reason, one)) for one in given] == [True] * len(OPERATIONS)


@pytest.mark.requirement("SR-15")
@pytest.mark.parametrize("aud", [..., "another", ["another", "one"], None, 1], ids=str)
@pytest.mark.parametrize("name", ["HS256", "EdDSA"])
def test_without_a_configured_audience_no_audience_is_looked_at(
    client: httpx.Client, urls: dict[str, str], name: str, aud: object
) -> None:
    """The service with the secret has no JWT_AUDIENCE, the one with the key set has JWT_AUDIENCE=any."""
    token = SIGNERS[name].token(aud=aud)

    assert call(client, urls[name], "list_tasks", "alice", f"Bearer {token}").status_code == 200


@pytest.mark.requirement("FR-04")
@pytest.mark.parametrize("name", ["HS256", "EdDSA"])
def test_of_a_claim_that_is_there_twice_the_last_one_counts(
    client: httpx.Client, urls: dict[str, str], name: str
) -> None:
    """One of the two ways that RFC 7519, section 4, leaves; both of the service's readings must take the same one."""
    token = raw_claims('{"sub":"alice","exp":1,"sub":"bob","exp":LATER}')(SIGNERS[name])

    statuses = [call(client, urls[name], "list_tasks", who, f"Bearer {token}").status_code for who in ("alice", "bob")]

    assert statuses == [403, 200]


@pytest.mark.requirement("FR-02")
@pytest.mark.parametrize(
    "header",
    [{"cty": "JWT"}, {"zip": "DEF"}, {"jku": "https://x"}, {"b64": True}, {"x": {"y": [1]}}],
    ids=["cty", "zip", "jku", "b64-true", "unknown"],
)
@pytest.mark.parametrize("name", ALL)
def test_a_genuine_tokens_other_header_members_are_not_looked_at(
    client: httpx.Client, urls: dict[str, str], name: str, header: dict[str, Any]
) -> None:
    token = SIGNERS[name].token(header)

    assert call(client, urls[name], "list_tasks", "alice", f"Bearer {token}").status_code == 200


@pytest.mark.requirement("FR-02")
@pytest.mark.parametrize(
    "typ",
    ["JWT", "jwt", "at+jwt", "AT+JWT", "application/jwt", "application/at+jwt", "Application/AT+JWT", None, ...],
    ids=str,
)
@pytest.mark.parametrize("name", ["HS256", "EdDSA"])
def test_a_token_may_say_in_each_way_that_it_is_one(
    client: httpx.Client, urls: dict[str, str], name: str, typ: object
) -> None:
    token = SIGNERS[name].token({"typ": typ})

    assert call(client, urls[name], "list_tasks", "alice", f"Bearer {token}").status_code == 200


@pytest.mark.requirement("FR-03")
@pytest.mark.parametrize(
    "others", [{"exp": -2}, {"nbf": 4}, {"iat": 1}, {"iat": 4.5}, {"iat": 9e15}, {"iat": ...}], ids=str
)
@pytest.mark.parametrize("name", ["HS256", "EdDSA"])
def test_clocks_may_differ_by_a_few_seconds_without_a_setting(
    client: httpx.Client, urls: dict[str, str], name: str, others: dict[str, Any]
) -> None:
    times = {claim: value if value is ... else time.time() + value for claim, value in others.items()}
    token = SIGNERS[name].token(payload=claims(**times))

    statuses = [call(client, urls[name], "list_tasks", "alice", f"Bearer {token}").status_code for _ in range(2)]

    assert statuses == [200, 200]


@pytest.mark.requirement("FR-03")
@pytest.mark.parametrize("name", ["HS256", "EdDSA"])
def test_a_remembered_token_ends_in_the_second_in_which_a_fresh_one_would(
    client: httpx.Client, urls: dict[str, str], log: list[dict[str, Any]], name: str
) -> None:
    exp = int(time.time()) - LEEWAY_SECONDS + 2.9
    token = SIGNERS[name].token(payload=claims(exp=exp))
    before = call(client, urls[name], "list_tasks", "alice", f"Bearer {token}")
    time.sleep(int(exp) + LEEWAY_SECONDS - time.time() + 0.01)
    log.clear()

    after = {operation: call(client, urls[name], operation, "alice", f"Bearer {token}") for operation in OPERATIONS}

    assert before.status_code == 200
    assert {answer.status_code for answer in after.values()} == {401}
    assert reasons(log, "authentication_failed")[0] == "the token has expired"


@pytest.mark.requirement("SR-06", "SR-11")
@pytest.mark.parametrize("format_", ["json", "console"])
def test_whatever_is_thrown_at_a_process_its_log_tells_no_token(
    database_url: str, tmp_path: Path, format_: str
) -> None:
    """Every attack once, at the most talkative level: libraries log there too."""
    tokens = [attack.forge(SIGNERS["HS256"]) for attack in ATTACKS.values() if "HS256" in attack.signers]
    log = tmp_path / "log"

    with (
        running_process(database_url, log, LOG_LEVEL="debug", LOG_FORMAT=format_) as url,
        httpx.Client(base_url=url) as client,
    ):
        authorizations = [f"Bearer {token}".encode("latin-1") for token in tokens]
        statuses = [client.get("/api/alice/tasks", headers={"Authorization": a}).status_code for a in authorizations]
    logged = log.read_text()

    assert set(statuses) == {401}
    assert logged.count("authentication_failed") == len(tokens)
    assert [part for token in tokens for part in parts(token) if part in logged] == []
    assert SECRET not in logged
