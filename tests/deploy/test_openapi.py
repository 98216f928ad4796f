"""The OpenAPI document against what is answered, by requests that schemathesis makes from it."""

from __future__ import annotations

import itertools

import http_servers
import hypothesis
import pytest
import schemathesis

from ray_pipeline.deploy.edge import Edge
from ray_pipeline.job import Serve
from ray_pipeline.job.routes import GraphQL

EXAMPLES = hypothesis.settings(
    max_examples=20,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)


@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_schemathesis_finds_nothing(kind, request):
    bundle = request.getfixturevalue(kind).bundle
    settings = Serve(max_rows=20, guard="flag", round=4, graphql=GraphQL(max_rows=20))
    app = Edge(http_servers.endpoint(bundle, settings))
    schema = schemathesis.openapi.from_asgi("/model/openapi.json", app)
    schema.config.update(headers={"X-API-Key": http_servers.KEY})
    schema.config.generation.update(with_security_parameters=False)
    # By default any 5xx would do, and 413, which the document has, would not.
    schema.config.checks.negative_data_rejection.expected_statuses = ["400", "413", "422"]
    statuses = set()
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    operations = [schema["/model/predict"]["POST"], schema["/model/graphql"]["POST"]]
    for operation, mode in itertools.product(operations, modes):
        strategy = operation.as_strategy(generation_mode=mode)

        @EXAMPLES
        @hypothesis.given(case=strategy)
        def check(case):
            response = case.call(headers={"X-API-Key": http_servers.KEY})
            case.validate_response(response, headers={"X-API-Key": http_servers.KEY})
            statuses.add(response.status_code)

        check()
    assert statuses >= {200, 422}, statuses
    health = schema["/model/health"]["GET"].Case().call()
    schema["/model/health"]["GET"].validate_response(health)
    assert health.json()["requests"] > 0
