"""GraphQL over HTTP: a real client, the answers of `predict`, and bounds that hold."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys

import gql
import graphql
import http_servers
import httpx
import hypothesis
import hypothesis_graphql
import pytest
from gql.transport.exceptions import TransportQueryError
from gql.transport.httpx import HTTPXTransport
from hypothesis import strategies as st

from ray_pipeline.deploy import graphql_bounds
from ray_pipeline.deploy.example import example_row
from ray_pipeline.deploy.graphql_names import example, field_names
from ray_pipeline.job import Serve
from ray_pipeline.job.routes import GraphQL
from ray_pipeline.schema import Column, Schema

HEADERS = {"X-API-Key": http_servers.KEY}
FIELDS = "label probability probabilities { label probability } warnings { where message }"
SETTINGS = Serve(guard="flag", graphql=GraphQL(introspection=True))


@pytest.fixture(scope="module")
def open_port(classifier):
    """An endpoint that tells its types, as in development."""
    with http_servers.running(http_servers.endpoint(classifier.bundle, SETTINGS)) as port:
        yield port


@pytest.fixture(scope="module")
def port(classifier):
    """An endpoint as it comes."""
    settings = Serve(max_bytes=300_000, graphql=GraphQL(max_rows=20))
    with http_servers.running(http_servers.endpoint(classifier.bundle, settings)) as port:
        yield port


@pytest.fixture(scope="module")
def row(classifier):
    return example_row(classifier.bundle)


@pytest.fixture(scope="module")
def fields(classifier):
    return field_names(classifier.bundle.manifest.schema)


def client(port):
    url = f"http://127.0.0.1:{port}/model/graphql"
    transport = HTTPXTransport(url=url, headers=HEADERS)
    return gql.Client(transport=transport, fetch_schema_from_transport=True)


def post(port, document, headers=HEADERS, path="graphql", **more):
    url = f"http://127.0.0.1:{port}/model/{path}"
    return httpx.post(url, headers=headers, timeout=60, **({"json": document} | more))


def errors(answer):
    found = answer.json()["errors"]
    assert all(set(one["extensions"]) == {"code", "where"} for one in found)
    return [(one["extensions"]["code"], one["extensions"]["where"]) for one in found]


def asked(rows, names, what=FIELDS):
    given = [{names.get(name, name): value for name, value in row.items()} for row in rows]
    query = f"query ($rows: [Row!]!) {{ predict(rows: $rows) {{ {what} }} version }}"
    return {"query": query, "variables": {"rows": given}}


def test_a_real_client_learns_the_types_and_asks(open_port, classifier, row, fields):
    with client(open_port) as session:
        kinds = {
            name: str(field.type)
            for name, field in session.client.schema.type_map["Row"].fields.items()
        }
        request = asked([row, row | {"age": 120}], fields)
        query = gql.gql(request["query"])
        query.variable_values = request["variables"]
        answer = session.execute(query)
        card = session.execute(gql.gql("{ card { name columns { name field } classes } }"))["card"]
    assert kinds == {
        "age": "Integer",
        "hours_a_week": "Float",
        "member": "Boolean",
        "ville": "Category",
        "job": "Category",
    }
    assert answer["version"] == classifier.bundle.manifest.version
    plain = post(open_port, {"rows": [row, row | {"age": 120}]}, path="predict").json()
    for one, other in zip(answer["predict"], plain["predictions"], strict=True):
        assert (one["label"], one["probability"]) == (other["label"], other["probability"])
        assert {s["label"]: s["probability"] for s in one["probabilities"]} == other[
            "probabilities"
        ]
    assert answer["predict"][0]["warnings"] == []
    assert answer["predict"][1]["warnings"] == plain["warnings"]
    assert {one["name"]: one["field"] for one in card["columns"]} == fields
    assert card["classes"] == list(classifier.bundle.manifest.classes)


def test_a_real_client_is_told_which_row_is_wrong(open_port, row, fields):
    request = asked([row, row | {"age": "abc"}], fields)
    query = gql.gql(request["query"])
    query.variable_values = request["variables"]
    with client(open_port) as session, pytest.raises(TransportQueryError) as told:
        session.execute(query)
    (error,) = told.value.errors
    assert error["message"] == 'expected integer, found "abc"'
    assert error["path"] == ["predict"]
    assert error["extensions"] == {"code": "invalid_request", "where": "rows[1].age"}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"hours_a_week": "abc"}, "rows[1].hours_a_week"),  # a type of GraphQL's own
        ({"ville": ["Paris"]}, "rows[1].ville"),
        ({"hours a week": None}, "rows[1]"),
        ({"age": 2**63}, "rows[1].age"),
    ],
)
def test_errors_say_where_by_the_names_of_graphql(port, row, fields, change, where):
    given = {fields[name]: value for name, value in row.items()}
    answer = post(port, asked([given, given | change], {}))
    assert answer.status_code == 200
    assert errors(answer)[0] == ("invalid_request", where)


def test_a_regression_answers_values(regressor):
    row, names = example_row(regressor.bundle), field_names(regressor.schema)
    with http_servers.running(http_servers.endpoint(regressor.bundle, Serve())) as port:
        answer = post(port, asked([row], names, "value")).json()["data"]
        plain = post(port, {"rows": [row]}, path="predict").json()
    assert answer["predict"] == plain["predictions"]


def test_rows_may_stand_in_the_query(port, row, fields):
    given = ", ".join(f"{fields[name]}: {json.dumps(row[name])}" for name in row)
    answer = post(port, {"query": f"{{ predict(rows: [{{{given}}}]) {{ probability }} }}"})
    plain = post(port, {"rows": [row]}, path="predict").json()["predictions"][0]
    assert answer.json()["data"]["predict"] == [{"probability": plain["probability"]}]


def test_introspection_is_off_as_it_comes(port, open_port):
    query = {"query": graphql.get_introspection_query()}
    assert errors(post(port, query))[0][0] == "invalid_query"
    assert "data" not in post(port, {"query": '{ __type(name: "Row") { name } }'}).json()
    assert "__schema" in post(open_port, query).json()["data"]
    deep = "{ fields { type " * 5 + "{ name }" + " } }" * 5
    assert errors(post(open_port, {"query": f"{{ __schema {{ types {deep} }} }}"}))


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("{ nothing }", "Cannot query field"),
        ("mutation { predict }", "not configured to execute mutation"),
        ("{ predict(", "Syntax Error"),
        ("{ " + "version " * 251 + "}", "251 fields"),
        ("{ version " + "{ version " * 20 + "}" * 21, "deep"),
        ("{ " + "v: version " * 700 + "}", "tokens"),
        ("{ version } #" + "x" * 20_000, "characters"),
        ("{ ...a } fragment a on Query { ...a }", "holds itself"),
        (
            "{ ...f0 } "
            + " ".join(f"fragment f{i} on Query {{ ...f{i + 1} ...f{i + 1} }}" for i in range(30))
            + " fragment f30 on Query { version }",
            "fields",
        ),
    ],
)
def test_a_query_is_refused_before_it_is_answered(port, query, told):
    answer = post(port, {"query": query})
    assert answer.status_code == 200
    assert told in answer.json()["errors"][0]["message"]
    assert "data" not in answer.json()
    new = {"Accept": "application/graphql-response+json"}
    answer = post(port, {"query": query}, HEADERS | new)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/graphql-response+json"


def test_aliases_ask_for_no_more_rows_than_one_field(port, row, fields):
    request = asked([row] * 3, fields)
    parts = " ".join(f"a{i}: predict(rows: $rows) {{ label }}" for i in range(7))
    request["query"] = f"query ($rows: [Row!]!) {{ {parts} }}"
    answer = post(port, request)
    assert errors(answer) == [("too_many_rows", "rows")]
    assert post(port, asked([row] * 21, fields)).status_code == 413
    assert errors(post(port, asked([], fields))) == [("invalid_request", "rows")]


def test_an_answer_has_no_more_values_than_it_may(classifier, row, fields):
    many = " ".join(f"a{i}: probabilities {{ label probability }}" for i in range(40))
    settings = Serve(graphql=GraphQL(max_rows=100))
    with http_servers.running(http_servers.endpoint(classifier.bundle, settings)) as port:
        answer = post(port, asked([row] * 100, fields, many))
    assert errors(answer) == [("too_many_values", "rows")]


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [({}, 401, "no_key"), ({"X-API-Key": "rp_other"}, 403, "wrong_key")],
)
def test_no_key_no_answer(port, headers, status, code):
    answer = post(port, {"query": "{ version }"}, headers)
    assert answer.status_code == status
    assert errors(answer) == [(code, "")]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"no", 400),
        (b"[]", 422),
        (b'{"query": 1}', 422),
        (b'{"query": "{version}", "variables": []}', 422),
        (b'{"query": "{version}", "operationName": 1}', 422),
        (b'{"query": "' + b"x" * 300_000 + b'"}', 413),
    ],
)
def test_what_is_no_request(port, content, status):
    answer = post(port, None, content=content, json=None)
    assert answer.status_code == status
    assert errors(answer)


@pytest.mark.parametrize("where", ["query", "variables"])
def test_what_is_nested_too_deeply(port, row, fields, where):
    deep = "[" * 900 + "]" * 900
    if where == "query":
        answer = post(port, {"query": f"{{ predict(rows: [{{ville: {deep}}}]) {{ label }} }}"})
    else:
        request = asked([row | {"ville": json.loads(deep)}], fields)
        answer = post(port, request)
    assert answer.status_code in (200, 400, 422)
    assert errors(answer)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_only_post(port, method):
    answer = httpx.request(method, f"http://127.0.0.1:{port}/model/graphql", headers=HEADERS)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_a_fault_is_told_by_a_number_alone(classifier, row, fields, caplog):
    app = http_servers.endpoint(classifier.bundle, Serve())

    def broken(columns):
        raise RuntimeError(f"secret {columns}")

    app._predictions._predictor.of_clean = broken
    with http_servers.running(app) as port, caplog.at_level("ERROR"):
        answer = post(port, asked([row], fields))
    assert answer.status_code == 500
    assert errors(answer) == [("internal_error", "")]
    assert "secret" not in answer.text + caplog.text


def test_it_may_be_left_out(classifier):
    with http_servers.running(http_servers.endpoint(classifier.bundle, Serve(graphql=None))) as at:
        assert post(at, {"query": "{ version }"}).status_code == 404


def test_requests_at_the_same_time_share_a_run(classifier, row, fields):
    app, runs = http_servers.endpoint(classifier.bundle, Serve()), []
    predictor = app._predictions._predictor
    predict = predictor.of_clean
    predictor.of_clean = lambda c: runs.append(len(next(iter(c.values())))) or predict(c)

    async def ask():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as session:
            ways = [
                ("graphql", asked([row], fields)),
                ("predict", {"rows": [row]}),
            ] * 6
            posts = [session.post(f"/model/{way}", json=j, headers=HEADERS) for way, j in ways]
            await session.post("/model/graphql", json=asked([row], fields), headers=HEADERS)
            runs.clear()
            return await asyncio.gather(*posts)

    answers = asyncio.run(ask())
    assert {answer.status_code for answer in answers} == {200}
    assert sum(runs) == 12
    assert len(runs) < 12


def test_names_are_those_of_graphql_and_none_is_taken_twice():
    names = ("age", "hours a week", "hours-a-week", "__typename", "2nd", "", "東", "é", "_2nd")
    schema = Schema(columns=tuple(Column(name=name, kind="number") for name in names))
    found = "age hours_a_week hours_a_week_2 _typename _2nd _ _2 _3 _2nd_2"
    assert list(field_names(schema).values()) == found.split()


@hypothesis.given(st.lists(st.text(max_size=6), unique=True, max_size=20))
def test_any_columns_have_names(columns):
    schema = Schema(columns=tuple(Column(name=name, kind="number") for name in columns))
    names = list(field_names(schema).values())
    assert len(set(names)) == len(columns)
    for name in names:
        assert re.fullmatch("[_A-Za-z][_0-9A-Za-z]*", name)
        assert not name.startswith("__")


def test_the_example_is_answered(port, classifier, row):
    request = example(classifier.schema, row, "label probability")
    assert post(port, request).json()["data"]["predict"][0]["label"]


def test_queries_made_from_the_types_have_no_5xx(open_port):
    """By hypothesis-graphql, on which schemathesis stands."""
    types = client(open_port)
    with types:
        schema = types.schema
    scalars = {
        name: st.integers(-(2**70), 2**70).map(lambda n: graphql.IntValueNode(value=str(n)))
        | st.text(max_size=5).map(lambda text: graphql.StringValueNode(value=text))
        for name in ("Integer", "Category", "Date", "Image", "Written")
    }
    seen = set()

    @hypothesis.settings(
        max_examples=100,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(hypothesis_graphql.queries(schema, custom_scalars=scalars))
    def check(query):
        answer = post(open_port, {"query": query})
        assert answer.status_code == 200, (query, answer.text)
        seen.update(code for code, _ in errors(answer)) if "errors" in answer.json() else None
        seen.add("data" in answer.json())

    check()
    assert True in seen
    assert "invalid_request" in seen
    assert not seen & {"internal_error"}


def test_nothing_of_graphql_is_imported_before_it_is_asked_for():
    script = "import sys, ray_pipeline.deploy.replica; sys.exit('graphql' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_fragment_is_looked_at_once():
    """30 that double what they hold stand for 2^30 fields, which are counted and not walked."""
    chain = " ".join(f"fragment f{i} on Query {{ ...f{i + 1} ...f{i + 1} }}" for i in range(30))
    with pytest.raises(graphql.GraphQLError, match=str(2**30)):
        graphql_bounds.parsed(f"{{ ...f0 }} {chain} fragment f30 on Query {{ version }}")
