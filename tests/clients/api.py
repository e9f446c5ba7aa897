"""Uses the API through reflection alone: api.py ADDRESS CA_FILE TOKEN_FILE."""

import sys

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

address, ca_file, token_file = sys.argv[1:]
with open(ca_file, "rb") as file:
    tls = grpc.ssl_channel_credentials(root_certificates=file.read())
with open(token_file) as file:
    token = grpc.access_token_call_credentials(file.read().strip())
channel = grpc.secure_channel(address, grpc.composite_channel_credentials(tls, token))
database = ProtoReflectionDescriptorDatabase(channel)
pool = descriptor_pool.DescriptorPool(database)


def call(method, **fields):
    """Calls `Service.Method` with a request made of keyword arguments, as JSON maps them."""
    service, name = method.split(".")
    described = pool.FindServiceByName(f"trunkline.v1.{service}").FindMethodByName(name)
    request = json_format.ParseDict(fields, message_factory.GetMessageClass(described.input_type)(), descriptor_pool=pool)
    answer = message_factory.GetMessageClass(described.output_type)
    invoke = channel.unary_unary(
        f"/trunkline.v1.{service}/{name}", lambda message: message.SerializeToString(), answer.FromString
    )
    reply = invoke(request, timeout=20)
    return json_format.MessageToDict(reply, descriptor_pool=pool)


def refused(code, method, **fields):
    """Calls a method that must be refused with `code`; returns the details by message name."""
    try:
        reply = call(method, **fields)
    except grpc.RpcError as error:
        assert error.code() == code, f"{method}: {error.code()} instead of {code}: {error.details()}"
        trailing = dict(error.trailing_metadata())
        return details(trailing.get("grpc-status-details-bin", b""))
    raise AssertionError(f"{method} was not refused: {reply}")


def fields_of(octets):
    """Fields of a protobuf message: (number, value), length-delimited and varint ones."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            octet = octets[at]
            at += 1
            value |= (octet & 0x7F) << shift
            shift += 7
            if octet < 0x80:
                return value

    while at < len(octets):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        else:
            assert key & 7 == 2, f"wire type {key & 7}"
            size = varint()
            yield key >> 3, octets[at : at + size]
            at += size


def details(status):
    """google.rpc.Status by hand: its details as {message name: octets}."""
    found = {}
    for number, any_message in fields_of(status):
        if number == 3:
            parts = dict(fields_of(any_message))
            name = parts[1].decode().rsplit("/", 1)[1]
            assert name not in found, f"two {name}"
            found[name] = parts[2]
    return found


def step(text):
    print(text, flush=True)


services = database.get_services()
assert "trunkline.v1.TrunkService" in services and "grpc.health.v1.Health" in services, services
step(f"{len(services)} services listed")

created = call(
    "TrunkService.CreateTrunk",
    trunkId="office",
    trunk={"displayName": "Office", "protocol": "TRANSPORT_PROTOCOL_UDP", "acl": {"allow": ["127.0.0.0/8"]}},
)["trunk"]
assert created["name"] == "trunks/office", created
# The server fills in the defaults and returns what is in force.
assert created["listenPort"] == 8060 and created["sipDscp"] == 24 and created["mediaDscp"] == 46, created
assert created["codecs"] == ["CODEC_OPUS", "CODEC_PCMU", "CODEC_PCMA"], created
assert created["maxDialTimeout"] == "120s" and created["retryableReasonCodes"] == "500-599", created
step("created with effective values")

updated = call(
    "TrunkService.UpdateTrunk",
    trunk={"name": "trunks/office", "maxCalls": 7, "displayName": "ignored", "etag": created["etag"]},
    updateMask="maxCalls",
)["trunk"]
assert updated["maxCalls"] == 7 and updated["displayName"] == "Office", updated
assert updated["etag"] != created["etag"], "the etag changes with every write"
step("updated through a mask")

conflict = refused(
    grpc.StatusCode.ABORTED,
    "TrunkService.UpdateTrunk",
    trunk={"name": "trunks/office", "maxCalls": 8, "etag": created["etag"]},
    updateMask="maxCalls",
)
assert "google.rpc.ErrorInfo" in conflict, conflict
assert call("TrunkService.GetTrunk", name="trunks/office")["trunk"]["maxCalls"] == 7
step("stale etag: ABORTED, nothing changed")

wrong = refused(
    grpc.StatusCode.INVALID_ARGUMENT,
    "TrunkService.CreateTrunk",
    trunkId="wrong",
    trunk={
        "displayName": "Wrong",
        "acl": {"allow": ["10.0.0.0/8", "10.0.0.300"]},
        "maxCallRate": "40 per five",
        "listenPort": 70000,
    },
)
violations = {}
for number, violation in fields_of(wrong["google.rpc.BadRequest"]):
    if number == 1:
        parts = dict(fields_of(violation))
        violations[parts[1].decode()] = parts[2].decode()
assert sorted(violations) == ["trunk.acl.allow[1]", "trunk.listen_port", "trunk.max_call_rate"] or sorted(violations) == [
    "acl.allow[1]",
    "listen_port",
    "max_call_rate",
], violations
assert "google.rpc.ErrorInfo" in wrong, wrong
for field, description in violations.items():
    step(f"  {field}: {description}")
refused(grpc.StatusCode.NOT_FOUND, "TrunkService.GetTrunk", name="trunks/wrong")
step("three mistakes, three violations, nothing stored")

checked = call(
    "TrunkService.CreateTrunk", trunkId="dry", trunk={"displayName": "Dry", "listenPort": 8099}, validateOnly=True
)["trunk"]
assert checked["listenPort"] == 8099
refused(grpc.StatusCode.NOT_FOUND, "TrunkService.GetTrunk", name="trunks/dry")
step("validate_only checks and stores nothing")

refused(
    grpc.StatusCode.ALREADY_EXISTS,
    "TrunkService.CreateTrunk",
    trunkId="clash",
    trunk={"displayName": "Clash", "protocol": "TRANSPORT_PROTOCOL_UDP", "listenPort": 8060},
)
step("a port in use: ALREADY_EXISTS")

call(
    "DigestCredentialService.CreateDigestCredential",
    parent="trunks/office",
    digestCredentialId="alice",
    digestCredential={"username": "alice", "password": "s3cret-of-alice"},
)
shown = call("DigestCredentialService.GetDigestCredential", name="trunks/office/credentials/alice")
assert "s3cret-of-alice" not in str(shown) and shown["digestCredential"]["hasPassword"], shown
revealed = call("DigestCredentialService.RevealDigestCredentialPassword", name="trunks/office/credentials/alice")
assert revealed["password"] == "s3cret-of-alice"
step("a password is write-only until it is revealed")

explained = call("TrunkService.ExplainAccess", name="trunks/office", sourceAddress="127.0.0.9")
assert explained["allowed"] and explained["entry"] == "127.0.0.0/8", explained
explained = call("TrunkService.ExplainAccess", name="trunks/office", sourceAddress="192.0.2.1")
assert not explained.get("allowed", False) and explained["decision"] == "ACCESS_DECISION_NO_MATCH", explained
step("access explained")

call("TrunkService.DeleteTrunk", name="trunks/office", force=True)
assert "trunks" not in call("TrunkService.ListTrunks"), "the list is empty again"
print("all steps passed")
