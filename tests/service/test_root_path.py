"""Behind a proxy that offers the service under a path, every link of the service leads where it should."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256

import httpx
import pytest
import yaml

from support.paths import CONTRACT
from support.people import Person
from support.reverse_proxy import offering
from support.service import running_process


@dataclass(frozen=True, slots=True)
class Offer:
    """The service, the path under which it is offered, and the URL of both."""

    service_url: str
    path: str
    url: str


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("/todo", "1", True), id="stripped"),
        pytest.param(("/todo", "1", False), id="passed-on"),
        pytest.param(("/todo/v1.0", "2", True), id="stripped-two-workers"),
        pytest.param(("/api", "1", True), id="stripped-begins-as-our-own"),
        pytest.param(("/api", "1", False), id="passed-on-begins-as-our-own"),
    ],
)
def offer(
    request: pytest.FixtureRequest, database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Offer]:
    path, workers, strips = request.param
    log = tmp_path_factory.mktemp("offer") / "log"
    with (
        running_process(database_url, log, ROOT_PATH=path, WORKERS=workers) as service_url,
        offering(service_url, path, strips=strips) as url,
    ):
        yield Offer(service_url, path, url)


@pytest.fixture
def alice(offer: Offer, person: Callable[..., Person]) -> Person:
    return person(url=offer.url)


@pytest.mark.requirement("FR-06", "FR-11")
def test_the_places_of_a_task_lead_to_it(offer: Offer, alice: Person) -> None:
    tasks = f"{offer.url}{alice.tasks}"
    created = alice.client.post(tasks, json={"title": "x"})
    place = created.headers["location"]
    toggled = alice.client.patch(created.url.join(f"{place}/complete"))

    assert place == f"{offer.path}{alice.tasks}/{created.json()['id']}"
    assert toggled.headers["content-location"] == place
    assert alice.client.get(toggled.url.join(place)).json() == toggled.json()


@pytest.mark.requirement("FR-07")
def test_the_link_of_a_page_leads_to_the_next(offer: Offer, alice: Person) -> None:
    for title in ("old", "new"):
        alice.client.post(f"{offer.url}{alice.tasks}", json={"title": title})

    first = alice.client.get(f"{offer.url}{alice.tasks}", params={"limit": 1})
    second = alice.client.get(first.url.join(first.links["next"]["url"]))

    assert [task["title"] for page in (first, second) for task in page.json()["items"]] == ["new", "old"]


@pytest.mark.requirement("SC-01")
def test_every_link_of_the_first_page_leads_on(offer: Offer) -> None:
    page = httpx.get(f"{offer.url}/")

    links = re.findall(r'href="([^"]*)"', page.text)
    assert len(links) == 5
    assert [httpx.get(page.url.join(link)).status_code for link in links] == [200] * 5


@pytest.mark.requirement("SC-01", "SR-10")
def test_the_documentation_finds_its_files_and_the_service(offer: Offer, alice: Person) -> None:
    redirect = httpx.get(f"{offer.url}/docs")
    page = httpx.get(redirect.url.join(redirect.headers["location"]))
    files = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    (document_url,) = re.findall(r'\burl: "([^"]*)"', page.text)
    document = httpx.get(page.url.join(document_url))
    server = document.json()["servers"][0]["url"]
    tried = alice.client.get(document.url.join(server + alice.tasks))

    assert page.url == f"{offer.url}/docs/"
    assert [httpx.get(page.url.join(file)).status_code for file in files] == [200] * 5
    assert (document.url, server) == (f"{offer.url}/openapi.json", offer.path)
    assert (tried.status_code, tried.json()["items"]) == (200, [])
    for script in re.findall("<script>(.*?)</script>", page.text, re.DOTALL):
        assert b64encode(sha256(script.encode()).digest()).decode() in page.headers["content-security-policy"]


@pytest.mark.requirement("SC-01")
def test_the_contract_names_the_path_as_its_server_and_is_the_same_otherwise(offer: Offer) -> None:
    text = httpx.get(f"{offer.url}/openapi.yaml").text

    assert set(text.replace(f"- url: {offer.path}\n", "- url: /\n").splitlines()) <= set(
        CONTRACT.read_text().splitlines()
    )
    assert yaml.safe_load(text)["servers"][0]["url"] == offer.path


@pytest.mark.requirement("FR-19")
def test_what_is_not_there_is_a_problem(offer: Offer, alice: Person) -> None:
    answers = [httpx.get(f"{offer.url}/nothing"), alice.client.delete(f"{offer.url}{alice.tasks}")]

    assert [(answer.status_code, answer.headers["content-type"]) for answer in answers] == [
        (404, "application/problem+json"),
        (405, "application/problem+json"),
    ]


def test_probes_and_calls_beside_the_proxy_are_answered(offer: Offer, alice: Person) -> None:
    for path in ("/healthz", "/readyz", "/docs/", "/docs/swagger-ui.css", alice.tasks):
        assert alice.client.get(offer.service_url + path).status_code == 200


@pytest.mark.requirement("SC-01")
def test_without_the_setting_there_is_no_such_path(service_url: str) -> None:
    answers = [httpx.get(f"{service_url}/todo{path}") for path in ("/", "/healthz", "/api/alice/tasks", "/docs/")]

    assert [answer.status_code for answer in answers] == [404] * 4
    assert yaml.safe_load(httpx.get(f"{service_url}/openapi.yaml").text)["servers"][0]["url"] == "/"
