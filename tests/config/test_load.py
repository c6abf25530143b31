"""Good files: what they mean, what the defaults are, and that nothing secret is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trustme
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidecar.config import Config, ConfigError, Mistake, load, parse
from sidecar.config.model import BacklogLimits, Declare, Drain, Listener, Reconnect, Route

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"


def read(text: str, environ: dict[str, str] | None = None, folder: Path = Path()) -> Config:
    return parse(text, "config.yaml", folder, environ or {})


def mistakes(text: str, folder: Path = Path()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, folder=folder)
    return [str(mistake) for mistake in caught.value.mistakes]


def route(keys: str, environ: dict[str, str] | None = None) -> Route:
    return read(f"routes:\n  - path: /e/{{id}}\n    exchange: x\n{keys}", environ).routes[0]


def test_an_empty_file_is_all_defaults() -> None:
    config = read("")
    assert [url.get_secret_value() for url in config.broker.url] == ["amqp://guest:guest@localhost:5672/"]
    assert (config.broker.tls, config.broker.heartbeat, config.broker.gather) == (None, 30.0, 0.002)
    assert config.broker.reconnect == Reconnect(min=0.5, max=30.0)
    assert config.listen == [Listener(bind="0.0.0.0:8080")]
    assert (config.admin.bind, config.admin.publish) == ("127.0.0.1:9400", False)
    assert config.drain == Drain(within=20.0)
    assert config.routes == []


def test_a_route_s_defaults() -> None:
    plain = route("")
    assert plain.binding_key == ["#"]
    assert (plain.binding_headers, plain.declare, plain.event, plain.max_age) == (None, None, None, None)
    assert (plain.data, plain.where, plain.overload) == ("body", {}, "retry")
    assert (plain.heartbeat.every, plain.retry) == (15.0, (2.0, 6.0))
    assert plain.backlog == BacklogLimits(events=1000, bytes=1024 * 1024, when_full=None)


def test_every_key() -> None:
    full = route(
        """
    binding_key: ["{id}.{query.kind}", all]
    binding_headers: {x-match: any-with-x, tenant: "{id}", level: 3, on: true, since: 2026-11-21T10:00:00Z, none: ~}
    declare: {type: headers, durable: no, auto_delete: yes, internal: true, arguments: {alternate-exchange: ae, n: 1}}
    event: "{type}.{headers.x-kind}.{id}"
    data: envelope
    where: {headers.tenant: "{id}", type: created}
    heartbeat: 250ms
    retry: 3s
    max_age: 1h
    backlog: {events: 10, bytes: 64KiB, when_full: drop_oldest}
    overload: 503
"""
    )
    assert full.binding_key == ["{id}.{query.kind}", "all"]
    assert full.binding_headers is not None
    assert full.binding_headers.pop("since").isoformat() == "2026-11-21T10:00:00+00:00"
    assert full.binding_headers == {"x-match": "any-with-x", "tenant": "{id}", "level": 3, "on": True, "none": None}
    assert full.declare == Declare(
        type="headers", durable=False, auto_delete=True, internal=True, arguments={"alternate-exchange": "ae", "n": 1}
    )
    assert (full.event, full.data) == ("{type}.{headers.x-kind}.{id}", "envelope")
    assert full.where == {"headers.tenant": "{id}", "type": "created"}
    assert (full.heartbeat.every, full.retry, full.max_age, full.overload) == (0.25, (3.0, 3.0), 3600.0, "503")
    assert full.backlog == BacklogLimits(events=10, bytes=65536, when_full="drop_oldest")


def test_texts_stay_texts_whatever_yaml_would_make_of_them() -> None:
    plain = route("    event: on\n    binding_key: [1.0, 0x10, 2026-11-21, yes, 2026-99-99]\n    where: {type: 007}\n")
    assert plain.event == "on"
    assert plain.binding_key == ["1.0", "0x10", "2026-11-21", "yes", "2026-99-99"]
    assert plain.where == {"type": "007"}
    assert {type(key) for key in plain.binding_key} == {str}


def test_defaults_are_merged_key_by_key_and_taken_back_by_nothing() -> None:
    config = read(
        """
defaults: {heartbeat: 5s, max_age: 1h, backlog: {events: 7, when_full: drop_oldest}, where: {type: a}}
routes:
  - {path: /a, exchange: x}
  - {path: /b, exchange: x, heartbeat: 1s, max_age: , backlog: {events: 9}, where: {app_id: b}}
"""
    )
    first, second = config.routes
    assert (first.heartbeat.every, first.max_age, first.where) == (5.0, 3600.0, {"type": "a"})
    assert (second.heartbeat.every, second.max_age, second.where) == (1.0, None, {"type": "a", "app_id": "b"})
    assert (first.backlog.events, second.backlog.events) == (7, 9)
    assert first.backlog.when_full == second.backlog.when_full == "drop_oldest"


def test_anchors_and_merge_keys() -> None:
    config = read(
        """
defaults: {backlog: &small {events: 1, bytes: 1kB}}
routes:
  - &first {path: /a, exchange: x, event: e}
  - {<<: *first, path: /b}
  - {<<: [{path: /c, backlog: {<<: *small, events: 2}}, *first]}
"""
    )
    assert [(each.path, each.exchange, each.event) for each in config.routes] == [
        ("/a", "x", "e"),
        ("/b", "x", "e"),
        ("/c", "x", "e"),
    ]
    assert config.routes[2].backlog == BacklogLimits(events=2, bytes=1000)


def test_interpolation_comes_before_typing(tmp_path: Path) -> None:
    environ = {"PUBLISH": "true", "EVENTS": "12", "EXCHANGE": "price$", "BACK": ""}
    (tmp_path / "name").write_text("orders\n")
    config = read(
        "admin:\n  publish: ${PUBLISH}\n"
        "drain:\n  within: ${WITHIN:-1m}\n"
        "routes:\n  - path: /${file:name}/{id}\n    exchange: ${EXCHANGE}$$1\n    max_age: ${BACK:-}\n"
        "    backlog:\n      events: ${EVENTS}\n",
        environ,
        tmp_path,
    )
    assert (config.admin.publish, config.drain.within) == (True, 60.0)
    only = config.routes[0]
    assert (only.path, only.exchange, only.backlog.events, only.max_age) == ("/orders/{id}", "price$$1", 12, None)


def test_several_urls_in_their_order_and_none_of_them_told() -> None:
    config = read("broker: {url: ['amqps://u:hunter2@a/v', 'amqp://u:hunter2@[::1]:1/'], tls: {}}")
    assert [url.get_secret_value() for url in config.broker.url] == [
        "amqps://u:hunter2@a/v",
        "amqp://u:hunter2@[::1]:1/",
    ]
    assert "hunter2" not in repr(config) + str(config) + config.model_dump_json()


@pytest.mark.parametrize(
    "bind", ["0.0.0.0:8080", "localhost:0", "[::1]:443", "[::]:80", "unix:/run/a b.sock", "my-host.example:65535"]
)
def test_addresses(bind: str) -> None:
    assert read(f"listen: [{{bind: '{bind}'}}]").listen[0].bind == bind


def test_one_port_in_both_families_is_no_collision() -> None:
    assert len(read("listen: [{bind: '0.0.0.0:80'}, {bind: '[::]:80'}, {bind: '127.0.0.1:81'}]").listen) == 3


def test_certificates_are_looked_at(tmp_path: Path) -> None:
    authority = trustme.CA()
    for name in ("a", "b"):
        certificate = authority.issue_cert("localhost")
        certificate.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.crt"))
        certificate.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))

    good = read(
        "listen: [{bind: '0.0.0.0:1', tls: {certificate: a.crt, key: a.key}}]\n"
        "broker: {url: 'amqps://h/', tls: {ca: ca.crt, certificate: b.crt, key: b.key}}",
        folder=tmp_path,
    )
    assert good.listen[0].tls is not None
    assert good.listen[0].tls.certificate == tmp_path / "a.crt"
    assert good.broker.tls is not None
    assert good.broker.tls.ca == tmp_path / "ca.crt"
    assert mistakes("listen: [{bind: '0.0.0.0:1', tls: {certificate: a.crt, key: b.key}}]", tmp_path) == [
        "config.yaml:1:35: listen[0].tls: the key is another certificate's "
        "(two PEM files that belong together, the key without a password)"
    ]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.yaml")
    assert caught.value.mistakes == [
        Mistake(
            str(tmp_path / "none.yaml"),
            1,
            1,
            "",
            "cannot be read: No such file or directory",
            "name another with -c; sidecar demo needs none",
        )
    ]


def test_the_environment_is_the_process_s_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_TEST_BIND", "localhost:1")
    (tmp_path / "config.yaml").write_bytes("\ufeffadmin:\n  bind: ${SIDECAR_TEST_BIND}\n".encode())
    assert load(tmp_path / "config.yaml", os.environ).admin.bind == "localhost:1"
    assert load(str(tmp_path / "config.yaml")).admin.bind == "localhost:1"


def test_the_example_is_good_and_has_every_key() -> None:
    config = load(EXAMPLE, {})
    assert [url.get_secret_value() for url in config.broker.url] == ["amqp://guest:guest@localhost:5672/"]
    assert len(config.routes) >= 3
    text = EXAMPLE.read_text(encoding="utf-8")
    for model in (Config, type(config.broker), Listener, type(config.admin), Drain, Route, Declare, BacklogLimits):
        for key in model.written():
            assert f"{key}:" in text, key


def test_a_report_is_one_line_and_safe_for_a_terminal() -> None:
    assert mistakes('"a\\nb\\e[31m": 1\n')[0].startswith("config.yaml:1:1: a�b�[31m: unknown key")


@settings(deadline=None)  # PyYAML's time grows with the square of the nesting
@given(
    st.text(alphabet="routes:pathexngbdk{}[]\"'-*&<>!|#%@`$,. \n\t\x00\u00e9\ud800~0123456789"),
    st.sampled_from(
        ["", "routes:\n  - path: ", "routes:\n  - path: /e\n    exchange: ", "broker: {url: ", "listen:\n  - "]
    ),
)
@example("!!timestamp x", "")
@example("!!int ''", "")
@example("!!float x", "")
@example("&a [*a]", "")
@example("&a {<<: *a}", "")
@example("[" * 100 + "]" * 100, "")
@example("[" * 500 + "]" * 500, "")
@example("{? {a: b} : c}", "")
@example("!!set {a, b}", "routes:\n  - path: ")
def test_no_text_breaks_the_reader(text: str, before: str) -> None:
    lines = (before + text).splitlines() or [""]
    try:
        found = read(before + text) and []
    except ConfigError as error:
        found = error.mistakes
    for mistake in found:
        assert 1 <= mistake.line <= len(lines) + 1
        assert mistake.column >= 1
        assert mistake.fact
        assert "\n" not in str(mistake)


@pytest.mark.parametrize(
    ("default", "own", "every", "event"),
    [
        ("5s", "{event: true}", 15.0, True),
        ("{every: 5s}", "{event: true}", 5.0, True),
        ("{every: 5s, event: true}", "1s", 1.0, False),
        ("{every: 5s, event: true}", "", 15.0, False),
    ],
)
def test_a_heartbeat_is_a_duration_or_a_mapping(default: str, own: str, every: float, event: bool) -> None:
    text = f"defaults: {{heartbeat: {default}}}\nroutes: [{{path: /e, exchange: x, heartbeat: {own}}}]"
    heartbeat = parse(text, "x", Path(), {}).routes[0].heartbeat
    assert (heartbeat.every, heartbeat.event) == (every, event)


@pytest.mark.parametrize("text", ["0s", "{every: 0s}"])
def test_a_heartbeat_of_no_time_is_a_mistake(text: str) -> None:
    with pytest.raises(ConfigError, match="must be above zero"):
        parse(f"routes: [{{path: /e, exchange: x, heartbeat: {text}}}]", "x", Path(), {})
