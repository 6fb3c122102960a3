"""Streams over HTTP/2 of our own: the transport for fleets, a tenth of the cost of gRPC's server in Python.

Context: of what a change costs, moving its bytes is most, and `grpc.aio` (110 to 150 us for a message and its answer)
and hyper-h2 (about as much) leave no room for what the streams are about. Choice: RFC 9113 as far as the streaming
calls of gRPC need it, sans-I/O, on plain asyncio, with header compression from `hpack` and TLS from `ssl`. Consequence:
this is ours to keep right: hyper-h2, grpcio and Envoy are its peers in the tests, and gRPC's transport sits the same
exams.
"""
