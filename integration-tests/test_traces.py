"""Traces: a collector gets one span a request over OTLP/gRPC, under the client's traceparent."""

import time
from concurrent import futures

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from server import Server, until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self):
        self.resources = []

    def Export(self, request, context):
        self.resources.extend(request.resource_spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self):
        return [span for r in list(self.resources) for scope in r.scope_spans for span in scope.spans]


def attributes(span):
    def value(any_value):
        return getattr(any_value, any_value.WhichOneof("value"))

    return {one.key: value(one.value) for one in span.attributes}


@pytest.fixture
def collector():
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield collector
    server.stop(None)


def test_one_span_a_request(models, collector):
    otlp = ("--otlp-endpoint", f"http://127.0.0.1:{collector.port}", "--otlp-service-name", "our-server")
    with Server("--model-id", models.tiny_v1_awq(), *otlp) as server:
        before = time.time_ns()
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "abc-1"}
        body = {"inputs": "a", "stream": True, "parameters": {"max_new_tokens": 40}}
        reply = server.post("/", body, headers=headers)
        assert reply.headers["x-request-id"] == "abc-1" and reply.text.count("data: ") <= 40
        server.post("/generate", {"inputs": ""})
        for path in ("/health", "/metrics", "/info"):
            server.get(path)
        until(lambda: len(collector.spans()) >= 2, "the spans were sent")
    streamed, refused = sorted(collector.spans(), key=lambda span: span.start_time_unix_nano)
    assert streamed.name == "POST /" and refused.name == "POST /generate"
    assert streamed.trace_id.hex() == TRACE and streamed.parent_span_id.hex() == PARENT
    assert before <= streamed.start_time_unix_nano < streamed.end_time_unix_nano
    told = attributes(streamed)
    assert told["request_id"] == "abc-1" and told["http.response.status_code"] == 200
    assert told["gen_ai.usage.input_tokens"] == 1 and told["gen_ai.usage.output_tokens"] >= 1
    # The span ends with the last token, not with the headers.
    took = (streamed.end_time_unix_nano - streamed.start_time_unix_nano) / 1e9
    assert took >= told["gen_ai.latency.e2e"] * 0.95 and told["gen_ai.latency.time_to_first_token"] > 0
    assert attributes(refused)["error.type"] == "validation"
    resource = {one.key: one.value.string_value for one in collector.resources[0].resource.attributes}
    assert resource["service.name"] == "our-server"


def test_a_collector_that_is_not_there_disturbs_nobody(models):
    with Server("--model-id", models.tiny_v1_awq(), "--otlp-endpoint", "http://127.0.0.1:1") as server:
        for _ in range(3):
            assert server.post("/generate", {"inputs": "a", "parameters": {"max_new_tokens": 2}}).status_code == 200
