"""Every setting comes from the environment, is checked at the start, and a mistake names its variable."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import attrs
import pytest
from psycopg.conninfo import conninfo_to_dict

from app.settings import Settings, SettingsError, read_settings

URL = "postgresql://somebody:s3cr3t@db.example/tasks"
SECRET = "s3cr3t of the thirty-two bytes that it has to have"

GOOD = [
    ("DATABASE_POOL_SIZE", "1", "database_pool_size", 1),
    ("DATABASE_POOL_SIZE", "1000", "database_pool_size", 1000),
    ("DATABASE_QUEUE_SIZE", "1", "database_queue_size", 1),
    ("DATABASE_PREPARE", "false", "database_prepare", False),
    ("DATABASE_PREPARE", "true", "database_prepare", True),
    ("JWT_JWKS_URL", "https://issuer.example/jwks", "jwt_jwks_url", "https://issuer.example/jwks"),
    ("JWT_JWKS_URL", "http://localhost:3000/jwks", "jwt_jwks_url", "http://localhost:3000/jwks"),
    ("JWT_JWKS_URL", "http://127.0.0.1/jwks", "jwt_jwks_url", "http://127.0.0.1/jwks"),
    ("JWT_JWKS_URL", "http://[::1]:3000/jwks", "jwt_jwks_url", "http://[::1]:3000/jwks"),
    *(("JWT_JWKS_URL", url, "jwt_jwks_url", url.strip()) for url in (
        "http://127.0.0.2/jwks", "http://127.255.255.254:1/jwks", "http://[::ffff:127.0.0.1]/jwks",
        "http://[::ffff:127.1.2.3]/jwks", "http://[0:0:0:0:0:0:0:1]/jwks", "http://app.localhost:3000/jwks",
        "http://a.b.localhost/jwks", "http://LOCALHOST/jwks", "http://localhost./jwks", "HTTP://localhost/jwks",
        "https://issuer.example/jwks\n", "https://issuer.example/jwks\r\n", "\t https://issuer.example/jwks \t",
        "https://10.0.0.1/jwks", "https://[2001:db8::1]:8443/jwks", "https://frontend/jwks", "https://my_app/jwks",
        "https://issuer.example./jwks", "https://xn--bcher-kva.example/jwks", "https://bücher.example/jwks",
        "https://1.example/jwks", "https://999.example/jwks", "https://issuer.example/jwks?v=1&x=%20",
    )),
    ("JWT_JWKS_INSECURE_HOST", "frontend", "jwt_jwks_insecure_host", "frontend"),
    ("JWT_JWKS_INSECURE_HOST", " Front_End.internal\n", "jwt_jwks_insecure_host", "front_end.internal"),
    ("JWT_JWKS_INSECURE_HOST", "10.0.0.1", "jwt_jwks_insecure_host", "10.0.0.1"),
    *((variable, f"{before}{value}{after}", variable.lower(), value)
      for variable in ("JWT_ISSUER", "JWT_AUDIENCE")
      for value in ("https://issuer.example", "urn:tasks", "my tasks", "é")
      for before, after in (("", "\n"), ("", "\r\n"), ("", "\r"), ("", "\t"), (" ", " "), ("\n", ""), ("", "\u2028"))),
    ("JWT_ISSUER", "https://issuer.example", "jwt_issuer", "https://issuer.example"),
    ("JWT_AUDIENCE", "tasks", "jwt_audience", "tasks"),
    ("DATABASE_WAIT_SECONDS", "0.25", "database_wait_seconds", 0.25),
    ("DATABASE_STATEMENT_SECONDS", "30", "database_statement_seconds", 30.0),
    ("JWT_LEEWAY_SECONDS", "300", "jwt_leeway_seconds", 300),
    ("JWT_CACHE_SIZE", "1", "jwt_cache_size", 1),
    ("HOST", "0.0.0.0", "host", "0.0.0.0"),  # noqa: S104
    ("PORT", "0", "port", 0),
    ("PORT", "65535", "port", 65535),
    ("METRICS_PORT", "9100", "metrics_port", 9100),
    ("WORKERS", "10", "workers", 10),
    ("KEEP_ALIVE_SECONDS", "3600", "keep_alive_seconds", 3600),
    ("DRAIN_SECONDS", "0", "drain_seconds", 0),
    ("CORS_ORIGINS", "https://a.example", "cors_origins", ("https://a.example",)),
    ("CORS_ORIGINS", "https://a.example, http://localhost:3000", "cors_origins", ("https://a.example", "http://localhost:3000")),
    ("CORS_ORIGINS", "http://[::1]:5173", "cors_origins", ("http://[::1]:5173",)),
    ("LOG_LEVEL", "debug", "log_level", "debug"),
    ("LOG_FORMAT", "json", "log_format", "json"),
    ("PROVISION_USERS", "false", "provision_users", False),
    ("HSTS_SECONDS", "31536000", "hsts_seconds", 31_536_000),
]  # fmt: skip

INNER = ["\n", "\r", "\r\n", "\t", " ", "\xa0", "\u2028", "\x1b", "\x7f", "\x85", "\ufeff", "\u200b"]
"""What may stand at the ends of a value in part, but never within it."""

NO_HOSTS = [
    "999.1.1.1", "256.0.0.1", "1.2.3", "1.2.3.4.5", "127.1", "2130706433", "0x7f.0.0.1", "0x7f000001", "issuer.123",
    "999.1.1.1.", "127.0.0.01", "-issuer.example", "issuer-.example", "issuer..example", ".example", "issuer.example..",
    "a" * 64 + ".example", ".".join(["a" * 60] * 5), "issuer%2eexample", "is*suer.example", "[::g]", "[1.2.3.4]",
    "[::1",
]  # fmt: skip

BAD = {
    "DATABASE_URL": [
        "somebody:s3cr3t@db.example",
        "mysql://somebody:s3cr3t@db.example/tasks",
        "postgresql://somebody:s3cr3t%zz@db.example/tasks",
        "postgresql://somebody:x@s3cr3t@db.example/tasks",
        "postgresql://somebody:s3cr3t/x@db.example/tasks",
        "postgresql://somebody:1/s3cr3t@db.example/tasks",
        "postgresql://somebody:s3cr3t@db.example:none/tasks",
        "postgresql://somebody:s3cr3t@db.example/tasks?pgbouncer=true",
        "postgresql://somebody:s3cr3t\udcff@db.example/tasks",
    ],
    "DATABASE_POOL_SIZE": ["0", "1001", "-1", "1.0", "ten", "1e2", " 7", "\u0667"],
    "DATABASE_QUEUE_SIZE": ["0", "100001"],
    "DATABASE_PREPARE": ["no", "1", "True"],
    "DATABASE_CLAIMS": ["SET_LOCAL", "set"],
    "JWT_SECRET": [
        *(f"s3cr3t{inner}{'x' * 32}" for inner in INNER if inner != " "),
        "s3cr3t" + "x" * 25 + "\n",
        "s3cr3t" + " " * 40,
        " " * 40,
        "s3cr3t",
        "s3cr3t" + "x" * 25,
        "s3cr3t" + "x" * 25 + "\udcff",
    ],
    "JWT_JWKS_URL": [
        "http://issuer.example/jwks",
        "http://localhost.example/jwks",
        "ftp://issuer.example",
        "issuer.example",
        "https://",
        "https://somebody:s3cr3t@issuer.example/jwks",
        "https://somebody:s3cr3t@[/jwks",
        "https://issuer.example:99999/jwks",
        "https://issuer.example:0/jwks",
        *(f"https://issuer.{inner}example/jwks" for inner in INNER),
        *(f"https://issuer.example/j{inner}wks" for inner in INNER),
        *(f"https://{host}/jwks" for host in NO_HOSTS),
        "http://127.0.0.1.example/jwks",
        "http://128.0.0.1/jwks",
        "http://[::2]/jwks",
        "http://[::ffff:10.0.0.1]/jwks",
        "http://localhost.example/jwks",
        "http://notlocalhost/jwks",
        "http://0.0.0.0/jwks",
        "http://frontend:3000/api/auth/jwks",
        "http://127.0.0.1@issuer.example/jwks",
        "http://issuer.example\\@localhost/jwks",
        " ",
    ],
    "JWT_JWKS_INSECURE_HOST": [
        "http://frontend",
        "frontend:3000",
        "frontend/jwks",
        "a b",
        "a\nb",
        "*",
        "*.example",
        "999.1.1.1",
        "[::1]",
        " ",
    ],
    **{
        variable: [
            *(f"https://issuer.{inner}example" for inner in INNER),
            *(f"a{inner}b" for inner in INNER if inner != " "),
            "\n",
        ]
        for variable in ("JWT_ISSUER", "JWT_AUDIENCE")
    },
    "DATABASE_WAIT_SECONDS": ["0", "0.000", "-1", "1e3", "nan", "2s"],
    "DATABASE_STATEMENT_SECONDS": ["0", "inf", "12345"],
    "JWT_LEEWAY_SECONDS": ["301", "-1", "x"],
    "JWT_CACHE_SIZE": ["0", "-1", "x", "10000001"],
    "PORT": ["65536", "http"],
    "METRICS_PORT": ["0", "65536", "http"],
    "WORKERS": ["0", "257", "21"],
    "KEEP_ALIVE_SECONDS": ["0", "3601"],
    "DRAIN_SECONDS": ["-1", "601"],
    "CORS_ORIGINS": [
        "*",
        "https://*.example",
        "https://a.example/",
        "https://a.example,",
        "https://A.example",
        "https://a.example:443",
        "http://a.example:80",
        "a.example",
        "null",
    ],
    "LOG_LEVEL": ["DEBUG", "trace"],
    "LOG_FORMAT": ["text"],
    "PROVISION_USERS": ["yes"],
    "REQUESTS_PER_USER": ["0", "100001", "many"],
    "HSTS_SECONDS": ["-1", "x", "63072001"],
}

VARIABLES = [*BAD, "HOST", "TASKPACT_DATA_DIR"]


@pytest.mark.requirement("NF-03")
def test_every_setting_is_among_those_tried_here() -> None:
    named = {"data_dir" if name == "TASKPACT_DATA_DIR" else name.lower() for name in VARIABLES}

    assert named == {field.name for field in attrs.fields(Settings)}


@pytest.mark.requirement("NF-03")
@pytest.mark.parametrize(("variable", "value", "name", "expected"), GOOD)
def test_a_good_value_is_taken(variable: str, value: str, name: str, expected: object) -> None:
    settings = read_settings({variable: value} | ({"JWT_AUDIENCE": "tasks"} if variable == "JWT_JWKS_URL" else {}))

    assert getattr(settings, name) == expected


def test_a_user_without_a_home_has_settings() -> None:
    """As systemd's dynamic users are, where nothing resolves their names."""
    program = "import pwd; pwd.getpwuid = {}.__getitem__; from app.settings import read_settings; read_settings({})"
    environment = {name: value for name, value in os.environ.items() if name not in {"HOME", "XDG_DATA_HOME"}}

    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)


@pytest.mark.requirement("NF-03", "SR-06")
@pytest.mark.parametrize(
    ("variable", "value"),
    [pytest.param(name, value, id=f"{name}-{value!a}") for name, values in BAD.items() for value in values],
)
def test_a_bad_value_is_refused_with_the_variables_name_and_without_a_secret(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        read_settings({variable: value})

    assert str(refusal.value).startswith(f"{variable} ")
    assert "s3cr3t" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.requirement("NF-03")
@pytest.mark.parametrize("variable", VARIABLES)
def test_an_empty_value_is_a_mistake(variable: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable} is empty"):
        read_settings({variable: ""})


@pytest.mark.requirement("NF-03", "SR-06")
def test_without_any_variable_there_is_neither_database_nor_secret() -> None:
    settings = read_settings({})

    assert (settings.database_url, settings.jwt_secret, settings.jwt_jwks_url) == (None, None, None)


@pytest.mark.requirement("NF-03", "SR-06")
def test_a_database_without_a_key_is_refused() -> None:
    with pytest.raises(SettingsError, match="JWT_SECRET or JWT_JWKS_URL must be set"):
        read_settings({"DATABASE_URL": URL})


@pytest.mark.requirement("NF-03", "FR-02")
def test_a_secret_and_a_key_set_exclude_each_other() -> None:
    with pytest.raises(SettingsError, match="JWT_SECRET and JWT_JWKS_URL"):
        read_settings({"JWT_SECRET": SECRET, "JWT_JWKS_URL": "https://issuer.example/jwks"})


@pytest.mark.requirement("NF-03", "SR-15")
def test_a_key_set_needs_an_audience_and_the_refusal_says_what_to_set() -> None:
    with pytest.raises(SettingsError, match=r"^JWT_AUDIENCE must be set with JWT_JWKS_URL.*base URL.*JWT_AUDIENCE=any"):
        read_settings({"JWT_JWKS_URL": "https://issuer.example/jwks"})


@pytest.mark.requirement("SR-15")
@pytest.mark.parametrize("keys", [{"JWT_JWKS_URL": "https://issuer.example/jwks"}, {"JWT_SECRET": SECRET}], ids=str)
@pytest.mark.parametrize(
    ("value", "audience"), [("any", None), ("Any", "Any"), ("ANY", "ANY"), ("anyone", "anyone"), ("tasks", "tasks")]
)
def test_any_in_these_letters_alone_means_every_audience(
    keys: dict[str, str], value: str, audience: str | None
) -> None:
    assert read_settings(keys | {"JWT_AUDIENCE": value}).audience == audience


@pytest.mark.requirement("NF-03")
def test_service_and_metrics_do_not_share_a_port() -> None:
    with pytest.raises(SettingsError, match="METRICS_PORT and PORT must differ"):
        read_settings({"PORT": "9000", "METRICS_PORT": "9000"})


@pytest.mark.requirement("NF-03", "SR-06")
@pytest.mark.parametrize(
    "url",
    ["http://frontend:3000/jwks", "http://FRONTEND/jwks", "http://frontend.internal/jwks", "http://10.0.0.1/jwks"],
)
def test_plain_http_needs_the_name_of_the_host_and_the_refusal_says_so(url: str) -> None:
    variables = {"JWT_JWKS_URL": url, "JWT_AUDIENCE": "tasks"}
    with pytest.raises(SettingsError) as refusal:
        read_settings(variables)
    line = str(refusal.value).rpartition("set ")[2]
    variable, _, host = line.partition("=")

    assert variable == "JWT_JWKS_INSECURE_HOST"
    assert read_settings(variables | {variable: host}).jwt_jwks_url == url
    for other in ("another", f"{host}.example", "localhost"):
        with pytest.raises(SettingsError, match="JWT_JWKS_URL must be an https:// URL"):
            read_settings(variables | {variable: other})


@pytest.mark.requirement("NF-03", "SR-06")
@pytest.mark.parametrize("end", ["\n", "\r\n", " ", "\t", "\u2028"], ids=ascii)
def test_a_secret_ends_before_the_line_end(end: str) -> None:
    assert read_settings({"JWT_SECRET": f"{end}{SECRET}{end}"}).jwt_secret.reveal() == SECRET


@pytest.mark.requirement("SR-06", "FR-02")
def test_a_secret_needs_thirty_two_bytes_whatever_its_characters() -> None:
    assert read_settings({"JWT_SECRET": "é" * 16}).jwt_secret.reveal() == "é" * 16
    with pytest.raises(SettingsError, match="JWT_SECRET must have at least 32 bytes"):
        read_settings({"JWT_SECRET": "x" * 31})


@pytest.mark.requirement("NF-03")
def test_variables_of_others_are_not_looked_at() -> None:
    assert read_settings({"DATABASE_URI": "", "PATH": "/bin", "JWT_SECRETS": "x"}) == read_settings({})


@pytest.mark.requirement("SR-06")
@pytest.mark.parametrize("show", [repr, str, "{}".format, lambda settings: repr(attrs.asdict(settings))])
def test_settings_show_no_secret(show: Callable[[object], str]) -> None:
    settings = read_settings({"DATABASE_URL": URL, "JWT_SECRET": SECRET})

    assert "s3cr3t" not in show(settings)


@pytest.mark.requirement("SR-07")
@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+asyncpg", "postgres+x"])
def test_every_spelling_of_the_url_is_one_that_libpq_reads(scheme: str) -> None:
    url = read_settings({"DATABASE_URL": URL.replace("postgresql", scheme), "JWT_SECRET": SECRET}).database_url

    assert url.reveal() == URL


@pytest.mark.requirement("SR-07")
def test_tls_and_several_hosts_pass_through() -> None:
    given = (
        "postgres://u:p%40%2F@one.example:5432,two.example:5433/tasks?sslmode=verify-full&sslrootcert=%2Fca.pem"
        "&channel_binding=require&target_session_attrs=read-write&connect_timeout=3&options=-c%20search_path%3Dx"
    )

    url = read_settings({"DATABASE_URL": given, "JWT_SECRET": SECRET}).database_url

    assert conninfo_to_dict(url.reveal()) == {
        "user": "u",
        "password": "p@/",
        "host": "one.example,two.example",
        "port": "5432,5433",
        "dbname": "tasks",
        "sslmode": "verify-full",
        "sslrootcert": "/ca.pem",
        "channel_binding": "require",
        "target_session_attrs": "read-write",
        "connect_timeout": "3",
        "options": "-c search_path=x",
    }
