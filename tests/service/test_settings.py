"""Every setting comes from the environment, is checked at the start, and a mistake names its variable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import httpx
import pytest
from psycopg.conninfo import conninfo_to_dict

from app.settings import Settings, SettingsError, issuer_tls, names_passed_over, read_settings
from handlers.auth.issuer import proxy_for
from support.service import running_process

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
    ("ROOT_PATH", "/", "root_path", ""),
    *(("ROOT_PATH", path, "root_path", path) for path in (
        "/todo", "/a/b/c", "/api", "/docs/x", "/docs2", "/v1.0", "/-._~", "/...", "/.a/b..", f"/{'x' * 199}",
    )),
    ("WORKERS", "10", "workers", 10),
    ("KEEP_ALIVE_SECONDS", "3600", "keep_alive_seconds", 3600),
    ("DRAIN_SECONDS", "0", "drain_seconds", 0),
    ("CORS_ORIGINS", "https://a.example", "cors_origins", ("https://a.example",)),
    ("CORS_ORIGINS", "https://a.example, http://localhost:3000", "cors_origins", ("https://a.example", "http://localhost:3000")),
    *(("CORS_ORIGINS", origin, "cors_origins", (origin,)) for origin in (
        "http://[::1]:5173", "capacitor://localhost", "ionic://localhost", "tauri://localhost", "app://-",
        "app://obsidian.md", "http://my_app.example", "https://_a.b_c.example:8443", "https://xn--bcher-kva.example",
        "chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb", "vscode-webview://1k2l3m", "com.example+x-y.z://host",
        "moz-extension://2c127fa4-62c7-7e4f-90e5-472b45eecfdc", "http://127.0.0.1:3000", "https://a.example.",
        "safari-web-extension://E3DA05BD-0D3D-4D4C-A3B6-06D9C4A37F80", "custom://host:80", "http://a.example:443",
    )),
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
    "ROOT_PATH": [
        *("//", "todo", "todo/", "/todo/", "//todo", "/a//b", ".", "/.", "/..", "/a/../b", "/a/.", "/docs", "*"),
        *("/a b", "/a%20b", "/%2e", "/a?b", "/a#b", "/a;b", "/{a}", "/a:b", "/bücher", "/a\\b", '/"', "/\udcff"),
        *("https://a.example/todo", f"/{'x' * 200}", *(f"/todo{inner}" for inner in INNER), " /todo", "\n/todo"),
    ],
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
        "javascript:alert(1)",
        "javascript://a.example",
        "file://",
        "file://a.example",
        "data://a.example",
        "blob://a.example",
        "wss://a.example",
        "capacitor://",
        "capacitor://localhost/",
        "capacitor://*",
        "Capacitor://localhost",
        "capacitor:localhost",
        "1app://localhost",
        "tauri://somebody@localhost",
        "https://somebody:s3cr3t@a.example",
        "https://a.example/path",
        "https://a.example?x",
        "https://a.example#x",
        "https://bücher.example",
        "https://a.example:0443",
        "https://a.example:",
        "https://a.example:123456",
        "https://a b.example",
        "https://a.example https://b.example",
        "chrome-extension://*",
        "https://a.example,null",
        "https://a.example,*",
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


@pytest.mark.requirement("NF-03")
@pytest.mark.parametrize("user", ["u@", "u:s3cr3t@", ""])
@pytest.mark.parametrize("address", ["::1", "2001:db8::7", "fe80:0:0:0:0:0:0:1"])
@pytest.mark.parametrize("port", [":5432", ""])
def test_an_ipv6_address_wants_its_brackets(user: str, address: str, port: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({"DATABASE_URL": f"postgresql://{user}{address}{port}/x", "JWT_SECRET": SECRET})
    assert str(refused.value) == "DATABASE_URL has an IPv6 address without brackets: write it as [::1], or [::1]:5432"

    url = f"postgresql://{user}[{address}]{port}/x"
    assert read_settings({"DATABASE_URL": url, "JWT_SECRET": SECRET}).database_url.reveal() == url


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


@pytest.mark.requirement("NF-03")
@pytest.mark.parametrize("value", ["tcp://10.0.0.1:80", "udp://10.0.0.1:53", "sctp://[fd00::1]:80"])
def test_a_port_that_kubernetes_set_for_a_service_is_passed_over(value: str) -> None:
    variables = {"JWT_SECRET": SECRET, "DATABASE_URL": "postgresql:///x", "METRICS_PORT": value}
    settings = read_settings(variables)

    assert (settings.port, settings.metrics_port) == (8000, None)
    assert names_passed_over(variables) == ["METRICS_PORT"]


@pytest.mark.requirement("NF-03")
def test_a_port_that_is_only_wrong_is_refused() -> None:
    with pytest.raises(SettingsError, match="METRICS_PORT must be"):
        read_settings({"METRICS_PORT": "http://10.0.0.1:80"})


@pytest.mark.requirement("NF-03")
def test_the_start_warns_of_a_port_that_is_passed_over(database_url: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running_process(database_url, log, METRICS_PORT="tcp://10.0.0.1:80"):
        pass

    (warning,) = [
        line for line in map(json.loads, log.read_text().splitlines()) if line["event"] == "variable_passed_over"
    ]
    assert (warning["name"], warning["level"]) == ("METRICS_PORT", "warning")


ISSUER = "https://issuer.example/jwks"

UNUSABLE = {
    "socks-without-its-package": ("ALL_PROXY", "socks5://somebody:s3cr3t@127.0.0.1:1080"),
    "socks-of-no-version": ("all_proxy", "socks://somebody:s3cr3t@127.0.0.1:1080"),
    "another-scheme": ("HTTPS_PROXY", "ftp://somebody:s3cr3t@proxy.example"),
    "no-host": ("https_proxy", "http://"),
    "no-such-host": ("HTTPS_PROXY", "http://somebody:s3cr3t@[proxy"),
    "no-such-port": ("HTTPS_PROXY", "http://somebody:s3cr3t@proxy.example:99999"),
    "a-slash-in-the-password": ("HTTPS_PROXY", "somebody:s3cr3t/x@proxy.example:3128"),
    "a-line-end": ("HTTPS_PROXY", "http://somebody:s3cr3t@proxy.example:3128\n"),
    "no-certificates": ("SSL_CERT_FILE", "/nowhere/s.pem"),
    "not-certificates": ("SSL_CERT_FILE", __file__),
    "no-folder-of-certificates": ("SSL_CERT_DIR", "/nowhere:/neither"),
    "no-folder-for-keys": ("SSLKEYLOGFILE", "/nowhere/keys"),
}
"""Variables with which no key set can be fetched from an issuer elsewhere."""

OF_NO_MATTER = {
    "a-proxy": {"HTTPS_PROXY": "http://somebody:s3cr3t@proxy.example:3128"},
    "a-proxy-without-scheme": {"https_proxy": "proxy.example:3128"},
    "lower-case-first": {"HTTPS_PROXY": "ftp://x", "https_proxy": "http://proxy.example"},
    "another-schemes-proxy": {"HTTP_PROXY": "socks://127.0.0.1:1080"},
    "a-proxy-for-others": {"ALL_PROXY": "socks://127.0.0.1:1080", "NO_PROXY": ".example"},
    "a-proxy-for-nobody": {"ALL_PROXY": "socks://127.0.0.1:1080", "NO_PROXY": "*"},
    "nothing": {"HTTPS_PROXY": "", "NO_PROXY": "", "SSL_CERT_FILE": "", "SSL_CERT_DIR": "", "SSLKEYLOGFILE": ""},
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of this process, without its variables for proxies and TLS."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("SSL"):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.requirement("NF-03")
@pytest.mark.parametrize(
    ("excepted", "host", "is_asked_through_it"),
    [
        pytest.param("localhost,[fd00::1]", "[fd00::1]", False, id="brackets"),
        pytest.param("fd00::/8, 10.0.0.0/8", "10.1.2.3", False, id="a-range"),
        pytest.param("fd00::/8, 10.0.0.0/8", "[fd12::3]", False, id="an-ipv6-range"),
        pytest.param("fd00::/8, 10.0.0.0/8", "11.1.2.3", True, id="not-in-the-range"),
        pytest.param("10.0.0.0/8", "issuer.example", True, id="a-name"),
        pytest.param("http://[x, a b,,", "issuer.example", True, id="not-urls"),
    ],
)
def test_no_proxy_excepts_hosts_addresses_and_ranges(
    environment: pytest.MonkeyPatch, excepted: str, host: str, is_asked_through_it: bool
) -> None:
    environment.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    environment.setenv("NO_PROXY", excepted)

    assert (proxy_for(httpx.URL(f"https://{host}/jwks")) is not None) == is_asked_through_it


@pytest.mark.requirement("NF-03", "SR-06")
@pytest.mark.parametrize(("name", "value"), UNUSABLE.values(), ids=UNUSABLE)
def test_what_keeps_the_key_set_from_being_fetched_is_named(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environment.setenv(name, value)

    with pytest.raises(SettingsError, match=rf"\A{name} ") as refusal:
        issuer_tls(ISSUER)

    assert "s3cr3t" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.requirement("NF-03")
@pytest.mark.parametrize("variables", OF_NO_MATTER.values(), ids=OF_NO_MATTER)
def test_what_does_not_matter_to_the_key_set_is_no_mistake(
    environment: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)

    issuer_tls(ISSUER)


@pytest.mark.requirement("NF-03")
@pytest.mark.parametrize("host", ["localhost", "app.localhost", "127.0.0.1", "127.1.2.3", "[::1]"])
def test_an_issuer_on_this_machine_needs_no_proxy(environment: pytest.MonkeyPatch, host: str) -> None:
    environment.setenv("ALL_PROXY", "socks://127.0.0.1:1080")

    issuer_tls(f"http://{host}:3000/jwks")


@pytest.mark.requirement("NF-03")
@pytest.mark.parametrize("excepted", ["2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:8443", "*"])
def test_an_address_is_excepted_from_proxies_however_it_is_written(
    environment: pytest.MonkeyPatch, excepted: str
) -> None:
    environment.setenv("ALL_PROXY", "socks://127.0.0.1:1080")
    environment.setenv("NO_PROXY", excepted)

    issuer_tls("https://[2001:db8::1]:8443/jwks")
