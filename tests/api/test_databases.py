import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from snaphold.engines.mariadb.accounts import native_hash
from tests.api.site import NO_TLS, AnsweringHost, Site, check_fault, opened_site

HASH_OF_P = "*7B9EBEED26AA52ED10C0F549FA863F13C39E0209"  # SELECT PASSWORD('p')


@pytest.fixture
def host(site: Site) -> Iterator[AnsweringHost]:
    """The host's agent, which answers questions."""
    with AnsweringHost(site) as host:
        yield host


@pytest.fixture
def path(site: Site, host: AnsweringHost) -> str:  # noqa: ARG001 - it must be there
    """The path of an instance."""
    return f"/instances/{site.instance()['id']}"


def test_databases(site: Site, path: str) -> None:
    """Made 202, listed by name with what was asked for, dropped 202; done when answered."""
    body = {"databases": [{"name": "shop", "character_set": "utf8", "collate": "utf8_general_ci"}, {"name": "a.b"}]}
    answer = site.call("POST", f"{path}/databases", body)
    assert (answer.status_code, answer.content) == (202, b"")
    assert site.ok("GET", f"{path}/databases") == {
        "databases": [{"name": "a.b"}, {"name": "shop", "character_set": "utf8", "collate": "utf8_general_ci"}]
    }
    assert site.call("DELETE", f"{path}/databases/a%2eb").status_code == 202
    assert [row["name"] for row in site.ok("GET", f"{path}/databases")["databases"]] == ["shop"]


def test_users(site: Site, path: str, host: AnsweringHost) -> None:
    """A user's password reaches the host as a hash; users are shown, found by name and host, and dropped."""
    users = [
        {"name": "app", "password": "p", "databases": [{"name": "shop"}, {"name": "shop"}]},
        {"name": "app", "password": "p", "host": "10.%"},
        {"name": "b@c", "password": "p", "host": None, "databases": None},
    ]
    assert site.call("POST", f"{path}/users", {"users": users}).status_code == 202
    assert {row["password_hash"] for row in host.users.values()} == {HASH_OF_P}
    shown: list[dict[str, Any]] = [
        {"name": "app", "host": "%", "databases": [{"name": "shop"}]},
        {"name": "app", "host": "10.%", "databases": []},
        {"name": "b@c", "host": "%", "databases": []},
    ]
    assert site.ok("GET", f"{path}/users") == {"users": shown}
    for name, user in (("app", 0), ("app@%25", 0), ("app%4010.%25", 1), ("b@c@", 2), ("b%40c%40%25", 2)):
        assert site.ok("GET", f"{path}/users/{name}") == {"user": shown[user]}
        assert site.ok("GET", f"{path}/users/{name}/databases") == {"databases": shown[user]["databases"]}
    check_fault(site.call("GET", f"{path}/users/nobody"), 404)
    check_fault(site.call("GET", f"{path}/users/app@localhost"), 404)
    for name in ("app%4010.%25", "b@c@%25", "app"):
        assert site.call("DELETE", f"{path}/users/{name}").status_code == 202
    assert site.ok("GET", f"{path}/users") == {"users": []}


BAD_NAMES = ["", " d", "d ", "a/b", "a`b", "a'b", 'a"b', "a;b", "a\\b", "a,b", "d\0", "d\n", "\U0001f600", 5, None]


@pytest.mark.parametrize(
    "name",
    [*BAD_NAMES, "x" * 65, "中" * 52, "-" * 52, "mysql", "SYS", "information_schema", "#mysql50#x", "snaphold_x"],
)
def test_bad_database_names(site: Site, path: str, name: object) -> None:
    """What MariaDB or a client could misread, what is too long, and what belongs to the system or to us: 400."""
    check_fault(site.call("POST", f"{path}/databases", {"databases": [{"name": name}]}), 400)


@pytest.mark.parametrize("name", [*BAD_NAMES, "x" * 33, "root", "ROOT", "mariadb.sys", "snaphold"])
def test_bad_user_names(site: Site, path: str, name: object) -> None:
    """The same for users; root is nobody's."""
    check_fault(site.call("POST", f"{path}/users", {"users": [{"name": name, "password": "p"}]}), 400)


@pytest.mark.parametrize(
    ("where", "body"),
    [
        ("databases", {"databases": []}),
        ("databases", {"databases": [{"name": "d"}, {"name": "d"}]}),
        ("databases", {"databases": [{"name": "d", "character_set": "utf8; drop"}]}),
        ("databases", {"databases": [{"name": "d", "collate": 5}]}),
        ("databases", {"databases": ["d"]}),
        ("users", {"users": []}),
        ("users", {"users": [{"name": "u"}]}),
        ("users", {"users": [{"name": "u", "password": ""}]}),
        ("users", {"users": [{"name": "u", "password": "p\0"}]}),
        ("users", {"users": [{"name": "u", "password": ["p"]}]}),
        ("users", {"users": [{"name": "u", "password": "p", "host": "a b"}]}),
        ("users", {"users": [{"name": "u", "password": "p", "host": ""}]}),
        ("users", {"users": [{"name": "u", "password": "p", "databases": [{"name": "mysql"}]}]}),
        ("users", {"users": [{"name": "u", "password": "p"}] * 2}),
    ],
)
def test_bad_forms(site: Site, path: str, where: str, body: dict[str, Any]) -> None:
    """Empty lists, doubles, values of the wrong type: 400."""
    check_fault(site.call("POST", f"{path}/{where}", body), 400)


CHARSETS: list[tuple[str, dict[str, str]]] = [
    ("no character set utf9", {"character_set": "utf9"}),
    ("no collation nothing_ci", {"collate": "nothing_ci"}),
    ("collation utf8mb4_bin is not one of character set latin1", {"character_set": "latin1", "collate": "utf8mb4_bin"}),
]


@pytest.mark.parametrize(("words", "fields"), CHARSETS, ids=[words for words, _ in CHARSETS])
def test_unknown_character_sets(site: Site, path: str, words: str, fields: dict[str, str]) -> None:
    """Those that the instance's version does not have are refused at once: for an instance, new or restored, too."""
    databases = [{"name": "fine", "character_set": "LATIN1"}, {"name": "odd", **fields}]
    check_fault(site.call("POST", f"{path}/databases", {"databases": databases}), 400, rf".*'odd' .*{words}\.")
    backup = site.backup(path.rpartition("/")[2])
    for more in ({"volume": {"size": 2}}, {"restorePoint": {"backupRef": backup["id"]}}):
        body = {"instance": {"name": "db", "flavorRef": 1, "databases": databases, **more}}
        check_fault(site.call("POST", "/instances", body), 400, rf".*'odd' .*{words}\.")


def test_names_at_the_limit(site: Site, path: str) -> None:
    """The longest names that a server can keep are taken; a grant on one that is too long for it is refused."""
    names = ["中" * 51, "é" * 64, "_" * 64, "x" * 64]
    site.ok("POST", f"{path}/databases", {"databases": [{"name": name} for name in names]})
    user = {"name": "u", "password": "p", "databases": [{"name": "_" * 32}, {"name": "中" * 51}]}
    site.ok("POST", f"{path}/users", {"users": [user]})
    body = {"databases": [{"name": "_" * 33}]}
    check_fault(site.call("PUT", f"{path}/users/u/databases", body), 400, ".* too long for a grant, .*")


@pytest.mark.parametrize("name", ["mysql", "a%60b", "x" * 65, "%20", "snaphold"])
def test_names_that_nobody_made(site: Site, path: str, name: str) -> None:
    """System databases and impossible names are not there, so they cannot be dropped."""
    check_fault(site.call("DELETE", f"{path}/databases/{name}"), 404)
    check_fault(site.call("DELETE", f"{path}/users/{name}"), 404)
    check_fault(site.call("DELETE", f"{path}/users/root"), 404)


@pytest.mark.parametrize(
    ("error", "code"),
    [("BadRequest", 400), ("NotFound", 404), ("Unprocessable", 422), ("Unavailable", 503), ("Nonsense", 503)],
)
def test_what_the_host_refuses(site: Site, path: str, host: AnsweringHost, error: str, code: int) -> None:
    """A host's refusal reaches the caller with its words."""
    host.refuse = (error, "Database shop exists already.")
    answer = site.call("POST", f"{path}/databases", {"databases": [{"name": "shop"}]})
    check_fault(answer, code, "Database shop exists already.")


def test_changes_of_users(site: Site, path: str, host: AnsweringHost) -> None:
    """Passwords, names and hosts are changed, each alone or together; a password reaches the host as a hash."""
    users = [{"name": "u", "password": "old"}, {"name": "w", "password": "old", "host": "10.%"}]
    site.ok("POST", f"{path}/users", {"users": users})
    assert site.call("PUT", f"{path}/users/u", {"user": {"password": "p"}}).status_code == 202
    assert host.users["u", "%"]["password_hash"] == HASH_OF_P
    assert site.call("PUT", f"{path}/users/u", {"user": {"name": "v", "host": "10.%"}}).status_code == 202
    assert site.call("PUT", f"{path}/users/w%4010.%25", {"user": {"host": "%"}}).status_code == 202
    assert set(host.users) == {("v", "10.%"), ("w", "%")}
    new = [{"name": "v", "host": "10.%", "password": "q"}, {"name": "w", "password": "p"}]
    assert site.call("PUT", f"{path}/users", {"users": new}).status_code == 202
    assert host.users["v", "10.%"]["password_hash"] not in {HASH_OF_P, "q"}
    assert host.users["w", "%"]["password_hash"] == HASH_OF_P


def test_grants(site: Site, path: str) -> None:
    """Rights on databases are given and taken, one by one, and listed."""
    site.ok("POST", f"{path}/users", {"users": [{"name": "u", "password": "p", "databases": [{"name": "a"}]}]})
    grants = f"{path}/users/u/databases"
    assert site.call("PUT", grants, {"databases": [{"name": "b"}, {"name": "c"}, {"name": "b"}]}).status_code == 202
    assert site.ok("GET", grants) == {"databases": [{"name": name} for name in "abc"]}
    assert site.call("DELETE", f"{grants}/b").status_code == 202
    assert site.ok("GET", grants) == {"databases": [{"name": name} for name in "ac"]}


def test_root(site: Site, path: str, host: AnsweringHost) -> None:
    """Root is enabled with a new password each time, shown once and known to the host as a hash; or disabled again."""
    assert site.ok("GET", f"{path}/root") == {"rootEnabled": False}
    passwords = set()
    for _ in range(2):
        answer = site.call("POST", f"{path}/root")
        assert answer.status_code == 200
        user = answer.json()["user"]
        passwords.add(user["password"])
        assert (user["name"], host.root) == ("root", native_hash(user["password"]))
    assert len(passwords) == 2
    assert site.ok("GET", f"{path}/root") == {"rootEnabled": True}
    assert site.call("DELETE", f"{path}/root").status_code == 202
    assert site.ok("GET", f"{path}/root") == {"rootEnabled": False}


@pytest.mark.parametrize(
    ("change", "body", "code"),
    [
        ("PUT users/u", {"user": {}}, 400),
        ("PUT users/u", {"user": {"password": ""}}, 400),
        ("PUT users/u", {"user": {"name": "root"}}, 400),
        ("PUT users/u", {"user": {"host": "a b"}}, 400),
        ("PUT users/root", {"user": {"password": "p"}}, 404),
        ("PUT users", {"users": []}, 400),
        ("PUT users", {"users": [{"name": "u"}]}, 400),
        ("PUT users", {"users": [{"name": "u", "password": "p"}] * 2}, 400),
        ("PUT users/u/databases", {"databases": []}, 400),
        ("PUT users/u/databases", {"databases": [{"name": "mysql"}]}, 400),
        ("PUT users/root/databases", {"databases": [{"name": "d"}]}, 404),
        ("DELETE users/root/databases/d", None, 404),
    ],
)
def test_bad_changes(site: Site, path: str, change: str, body: Any, code: int) -> None:
    """A change of nothing, to what nobody may have, or of system users."""
    method, _, where = change.partition(" ")
    check_fault(site.call(method, f"{path}/{where}", body), code)


CHANGES = [
    ("POST", "databases", {"databases": [{"name": "d"}]}),
    ("DELETE", "databases/d", None),
    ("POST", "users", {"users": [{"name": "u", "password": "p"}]}),
    ("PUT", "users", {"users": [{"name": "u", "password": "p"}]}),
    ("PUT", "users/u", {"user": {"name": "v"}}),
    ("DELETE", "users/u", None),
    ("PUT", "users/u/databases", {"databases": [{"name": "d"}]}),
    ("DELETE", "users/u/databases/d", None),
    ("POST", "root", None),
    ("DELETE", "root", None),
]


@pytest.mark.parametrize(("method", "where", "body"), CHANGES)
def test_no_change_during_a_backup(site: Site, path: str, method: str, where: str, body: Any) -> None:
    """While a backup is taken, databases, users, rights and root stay as they are: 422 in the contract's words."""
    instance = path.rpartition("/")[2]
    site.ok("POST", "/backups", {"backup": {"name": "b", "instance": instance}})
    words = rf"Instance {instance} is not currently available .*\(instance status was BACKUP\)\."
    check_fault(site.call(method, f"{path}/{where}", body), 422, words)


def test_pages(site: Site, path: str) -> None:
    """By name, in pages whose markers can stand in a URL as they are, whatever the names."""
    names = ["0", "7x", "a", "a.b", "d d", "é", "备", "~z", "x" * 64, "x" * 63]
    site.ok("POST", f"{path}/databases", {"databases": [{"name": name} for name in names]})
    site.ok("POST", f"{path}/users", {"users": [{"name": name[:20], "password": "p"} for name in names[:6]]})
    for where, count in (("databases", 10), ("users", 6)):
        found: list[str] = []
        query = "?limit=1&x=y"
        while query:
            page = site.ok("GET", f"{path}/{where}{query}")
            found += [row["name"] for row in page[where]]
            hrefs = [link["href"] for link in page.get("links", [])]
            query = "?" + hrefs[0].partition("?")[2] if hrefs else ""
            assert not query or "x=y" in query
            assert all(character.isalnum() or character in "._~-=&?" for character in query)
        assert found == sorted(names[:count] if where == "databases" else names[:6])
    assert "links" not in site.ok("GET", f"{path}/databases")
    for bad in ("limit=0", "marker=~zz", "marker=%25", "marker=~ff"):
        check_fault(site.call("GET", f"{path}/databases?{bad}"), 400)


def test_reads_during_a_backup(site: Site, path: str) -> None:
    """While a backup is taken, databases and users can be listed."""
    instance = path.rpartition("/")[2]
    site.ok("POST", "/backups", {"backup": {"name": "b", "instance": instance}})
    assert site.ok("GET", f"{path}/databases") == {"databases": []}
    assert site.ok("GET", f"{path}/users") == {"users": []}
    assert site.ok("GET", f"{path}/root") == {"rootEnabled": False}


def test_silent_host(tmp_path: Path) -> None:
    """A host that does not answer in time is a 503, and nothing of the question stays."""
    with opened_site(tmp_path, question_timeout_s=0.4) as site:
        path = f"/instances/{site.instance()['id']}"
        check_fault(site.call("GET", f"{path}/databases"), 503)
        assert site.claim()["question"] is None


def test_waiting_callers_hold_up_nobody(tmp_path: Path) -> None:
    """However many callers wait for a silent host, other requests and the host's own go on meanwhile."""
    with opened_site(tmp_path, question_timeout_s=2.5) as site:
        path = f"/instances/{site.instance()['id']}"
        url, headers = f"{site.url}/v1.0/1234{path}/databases", {"X-Auth-Token": site.token("demo")}
        waiting = threading.Semaphore(0)

        def ask(_: int) -> int:
            waiting.release()
            return client.get(url, headers=headers).status_code

        with httpx.Client(timeout=60, verify=NO_TLS) as client, ThreadPoolExecutor(45) as pool:
            asked = [pool.submit(ask, number) for number in range(45)]
            for _ in asked:
                waiting.acquire()
            for _ in range(5):
                site.ok("GET", "/backups")
                site.claim()
            assert not any(each.done() for each in asked)
            assert {each.result() for each in asked} <= {503}


def test_slow_instances_cost_no_other_account_an_answer(tmp_path: Path) -> None:
    """An instance has one question at a time and an account a share of the threads; another account's goes through."""
    with opened_site(tmp_path, question_timeout_s=3) as site:
        slow = [site.instance()["id"] for _ in range(10)]
        other = site.instance(user="other", account="9999")["id"]

        def ask(account: str, user: str, instance: str) -> int:
            return site.call("GET", f"/instances/{instance}/databases", user=user, account=account).status_code

        with ThreadPoolExecutor(31) as pool:
            waiting = [pool.submit(ask, "1234", "demo", instance) for instance in slow * 3]
            waiting.append(pool.submit(ask, "9999", "other", other))
            asked: list[str] = []
            while other not in asked:
                question = site.claim()["question"]
                asked += [] if question is None else [question["instance_id"]]
            assert len(asked) == len(set(asked)) <= 9
            assert {each.result() for each in waiting} == {503}


def test_names_that_end_like_a_path(site: Site, path: str, host: AnsweringHost) -> None:
    """Paths may end in `.json`; a name that ends so is that name, and never another one's."""
    names = ["shop", "shop.json"]
    site.ok("POST", f"{path}/databases", {"databases": [{"name": name} for name in names]})
    databases = [{"name": name} for name in names]
    users = [{"name": name, "password": "p", "databases": databases} for name in ("app", "app.json")]
    site.ok("POST", f"{path}/users", {"users": users})
    assert site.ok("GET", f"{path}/users/app.json")["user"]["name"] == "app.json"
    assert site.call("DELETE", f"{path}/users/app/databases/shop.json").status_code == 202
    assert site.ok("GET", f"{path}/users/app/databases.json") == {"databases": [{"name": "shop"}]}
    assert site.call("DELETE", f"{path}/users/app.json").status_code == 202
    assert site.call("DELETE", f"{path}/databases/shop.json").status_code == 202
    assert (list(host.databases), [name for name, _ in host.users]) == (["shop"], ["app"])
    assert [row["name"] for row in site.ok("GET", f"{path}/databases.json")["databases"]] == ["shop"]


def test_odd_names_in_paths(site: Site, path: str) -> None:
    """Names in paths are what they are once decoded."""
    site.ok("POST", f"{path}/users", {"users": [{"name": "50%_of?it#", "password": "p"}]})
    name = quote("50%_of?it#", safe="")
    assert site.ok("GET", f"{path}/users/{name}")["user"]["name"] == "50%_of?it#"
    assert site.call("DELETE", f"{path}/users/{name}").status_code == 202


@pytest.mark.parametrize(
    ("asked", "lie"),
    [
        ("databases", {}),
        ("databases", {"databases": [{"name": None}]}),
        ("databases", {"databases": [{"name": "x" * 256}]}),
        ("users", {"users": [{"name": "app", "databases": []}]}),
        ("users", {"users": [{"name": "app", "host": "%", "databases": ["shop"]}]}),
        ("users/app", {"users": 7}),
        ("root", {"enabled": "perhaps"}),
    ],
)
def test_an_answer_of_the_host_that_makes_no_sense(
    site: Site, path: str, host: AnsweringHost, asked: str, lie: dict[str, Any]
) -> None:
    """It is the host that does not answer then: 503, never a 500."""
    host.lie = lie
    check_fault(site.call("GET", f"{path}/{asked}"), 503)
