# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The templates, without AWS: by a linter, and by the rules that it does not know."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cfnlint.api import lint_file
from cfnlint.decode.cfn_yaml import load

from deploy.layer import build as layer
from remotegpu.orchestrator.settings import OPTIONS

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
TEMPLATES = (DEPLOY / "sam/template.yaml", DEPLOY / "sam/network.yaml", DEPLOY / "ec2/launch-template.yaml")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Of the client, fixed for all that is deployed; and of the orchestrator and the server, which have one for each option.
CLIENT = {"URL", "TENANT", "LEASE", "CA", "TOKEN", "IDENTITY", "AUDIENCE"}

Template = dict[str, Any]


def template(path: Path) -> Template:
    """With the short forms of functions as their long ones: !Ref x is {"Ref": "x"}."""
    content: Template = load(str(path))
    return content


@pytest.fixture(scope="module")
def sam() -> Template:
    return template(TEMPLATES[0])


@pytest.fixture(scope="module")
def network() -> Template:
    return template(TEMPLATES[1])


def of_type(content: Template, kind: str) -> dict[str, Template]:
    found = {name: made.get("Properties", {}) for name, made in content["Resources"].items() if made["Type"] == kind}
    assert found, f"no {kind} in the template"
    return found


def statements(properties: Template) -> Iterator[Template]:
    """Of a function's policies, those under a condition too."""
    for policy in properties["Policies"]:
        for statement in policy["Statement"]:
            yield statement["Fn::If"][1] if "Fn::If" in statement else statement


def actions(properties: Template) -> set[str]:
    given = [statement["Action"] for statement in statements(properties)]
    return {action for one in given for action in ([one] if isinstance(one, str) else one)}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_cfn_lint_has_nothing_to_say(path: Path) -> None:
    assert [str(match) for match in lint_file(path)] == []


def test_a_message_stays_hidden_for_six_timeouts_and_five_failures(sam: Template) -> None:
    queues = of_type(sam, "AWS::SQS::Queue")
    timeout = sam["Globals"]["Function"]["Timeout"]
    assert not any("Timeout" in function for function in of_type(sam, "AWS::Serverless::Function").values())
    assert queues["Queue"]["VisibilityTimeout"] >= 6 * timeout
    redrive = queues["Queue"]["RedrivePolicy"]
    assert redrive["maxReceiveCount"] >= 5
    assert redrive["deadLetterTargetArn"] == {"Fn::GetAtt": ["DeadLetters", "Arn"]}
    assert queues["DeadLetters"]["MessageRetentionPeriod"] == 14 * 24 * 3600


def test_only_this_bucket_of_this_account_sends_messages(sam: Template) -> None:
    (policy,) = of_type(sam, "AWS::SQS::QueuePolicy").values()
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "s3.amazonaws.com"}
    assert statement["Action"] == "sqs:SendMessage"
    condition = statement["Condition"]
    assert condition["StringEquals"] == {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}
    assert condition["ArnEquals"]["aws:SourceArn"]["Fn::Sub"].endswith(":s3:::${InputBucketName}")
    # The bucket is named by a parameter, or bucket and policy would need each other.
    assert of_type(sam, "AWS::S3::Bucket")["InputBucket"]["BucketName"] == {"Ref": "InputBucketName"}
    assert sam["Resources"]["InputBucket"]["DependsOn"] == "QueuePolicy"


def test_a_bad_object_does_not_take_its_batch_with_it_and_gpus_are_not_overrun(sam: Template) -> None:
    orchestrator = of_type(sam, "AWS::Serverless::Function")["Orchestrator"]
    module, _, function = orchestrator["Handler"].rpartition(".")
    assert f"def {function}(" in (ROOT / "src" / Path(*module.split(".")).with_suffix(".py")).read_text()
    trigger = orchestrator["Events"]["Messages"]["Properties"]
    assert trigger["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert trigger["ScalingConfig"]["MaximumConcurrency"] == {"Ref": "MaximumConcurrency"}
    variables = orchestrator["Environment"]["Variables"]
    assert int(variables["REMOTEGPU_ORCHESTRATE_IN_FLIGHT"]) >= trigger["BatchSize"]
    times = ("RESERVATION", "RESULT")
    whole = sum(float(variables[f"REMOTEGPU_ORCHESTRATE_{name}_TIMEOUT"]) for name in times)
    assert whole < sam["Globals"]["Function"]["Timeout"]
    kinds = {
        str(text.get("Fn::Sub", text) if isinstance(text, dict) else text).partition(":")[0]
        for text in variables["REMOTEGPU_ORCHESTRATE_INVOKE"]["Fn::If"][1:]
    }
    assert kinds == {"lambda", "handler"}


def test_the_layer_is_one_that_is_built_and_for_the_functions_runtime(sam: Template) -> None:
    every = sam["Globals"]["Function"]
    (made,) = of_type(sam, "AWS::Serverless::LayerVersion").values()
    target = layer.Target(every["Runtime"].removeprefix("python"), *every["Architectures"])
    assert (DEPLOY / "sam" / made["ContentUri"]).resolve() == layer.OUTPUT / target.archive
    assert target.python in layer.VERSIONS
    assert made["CompatibleRuntimes"] == [every["Runtime"]]
    assert made["CompatibleArchitectures"] == every["Architectures"]
    assert every["SnapStart"] == {"ApplyOn": "PublishedVersions"}
    assert every["AutoPublishAlias"]


def test_each_function_has_a_role_of_its_own_with_no_more_than_it_needs(sam: Template) -> None:
    functions = of_type(sam, "AWS::Serverless::Function")
    for name, properties in functions.items():
        assert "Role" not in properties, name
        assert "*" not in "".join(actions(properties)), name
        for statement in statements(properties):
            if statement["Resource"] == "*":
                assert statement["Action"] == "sts:GetWebIdentityToken"
                assert statement["Condition"]["ForAllValues:StringEquals"]["sts:IdentityTokenAudience"]
                assert statement["Condition"]["Null"] == {"sts:IdentityTokenAudience": "false"}
        assert "sts:GetWebIdentityToken" in actions(properties)
        assert properties["LoggingConfig"]["LogFormat"] == "JSON"
        group = properties["LoggingConfig"]["LogGroup"]["Ref"]
        assert of_type(sam, "AWS::Logs::LogGroup")[group]["RetentionInDays"] <= 90
    assert "s3:PutObject" not in actions(functions["Worker"])
    assert {"s3:ListBucket", "lambda:InvokeFunction", "sqs:ChangeMessageVisibility"} <= actions(
        functions["Orchestrator"]
    )


def test_nothing_is_open_to_the_world(sam: Template, network: Template) -> None:
    text = "".join(path.read_text() for path in TEMPLATES)
    assert "::/0" not in text
    for content in (sam, network, template(TEMPLATES[2])):
        for name, made in content["Resources"].items():
            ingress = json.dumps(made["Properties"].get("SecurityGroupIngress", []))
            assert "CidrIp" not in ingress, name
            if made["Type"].endswith("SecurityGroupIngress"):
                assert "SourceSecurityGroupId" in made["Properties"], name
                assert "CidrIp" not in made["Properties"], name
    rules = of_type(network, "AWS::EC2::SecurityGroupIngress")
    to_gpu = [rule for rule in rules.values() if rule["GroupId"] == {"Ref": "GpuGroup"}]
    assert [(rule["SourceSecurityGroupId"], rule["FromPort"], rule["ToPort"]) for rule in to_gpu] == [
        ({"Ref": "FunctionGroup"}, 50051, 50051)
    ]
    # Without any egress rule, EC2 allows all of it.
    egress = of_type(network, "AWS::EC2::SecurityGroup")["FunctionGroup"]["SecurityGroupEgress"]
    assert {"DestinationSecurityGroupId", "DestinationPrefixListId"} >= {
        key for rule in egress for key in rule if key.startswith(("Dest", "Cidr"))
    }
    for bucket in of_type(sam, "AWS::S3::Bucket").values():
        assert all(bucket["PublicAccessBlockConfiguration"].values())


def test_functions_reach_what_they_call_without_the_internet(network: Template) -> None:
    endpoints = of_type(network, "AWS::EC2::VPCEndpoint").values()
    services = {made["ServiceName"]["Fn::Sub"].rpartition(".")[2]: made["VpcEndpointType"] for made in endpoints}
    assert services == {"s3": "Gateway", "sts": "Interface", "lambda": "Interface"}


def test_alarms_cover_errors_slowness_dead_letters_and_waiting(sam: Template) -> None:
    alarms = {alarm["MetricName"]: alarm for alarm in of_type(sam, "AWS::CloudWatch::Alarm").values()}
    assert set(alarms) == {
        *("Errors", "Duration"),
        *("ApproximateNumberOfMessagesVisible", "ApproximateAgeOfOldestMessage"),
    }
    assert alarms["Duration"]["ExtendedStatistic"] == "p99"
    assert alarms["Duration"]["Threshold"] == 0.8 * 1000 * sam["Globals"]["Function"]["Timeout"]
    dead = alarms["ApproximateNumberOfMessagesVisible"]
    assert dead["Dimensions"][0]["Value"] == {"Fn::GetAtt": ["DeadLetters", "QueueName"]}
    assert dead["Threshold"] == 0


def test_every_variable_is_one_that_somebody_reads() -> None:
    settings = (ROOT / "server/remotegpu_server/settings.py").read_text() + (
        ROOT / "server/remotegpu_server/cli.py"
    ).read_text()
    known = {option.variable for option in OPTIONS} | {f"REMOTEGPU_{name}" for name in CLIENT}
    used: set[str] = set()
    for path in [path for path in DEPLOY.rglob("*") if path.suffix in {".yaml", ".Dockerfile"}]:
        used |= set(re.findall(r"\bREMOTEGPU_[A-Z_]+[A-Z]\b", path.read_text()))
    assert "REMOTEGPU_SERVER_TLS_CERT" in used
    health_only = {"REMOTEGPU_SERVER_NAME"}
    for name in used - known - health_only:
        option = name.removeprefix("REMOTEGPU_SERVER_")
        assert option != name, name
        assert f"_{option}" in settings, name


def test_every_flag_of_orchgpu_has_an_answer_that_exists() -> None:
    page = (DEPLOY / "FROM-RCUDA-AND-ORCHGPU.md").read_text()
    (table,) = re.findall(r"\| orchGPU \|.*?\n\n", page, re.DOTALL)
    rows = [row.split("|")[1:-1] for row in table.strip().splitlines()[2:]]
    assert {flag for row in rows for flag in re.findall(r"`-(\w)`", row[0])} == set("qSPgvwsubiompy")
    named = {flag for row in rows for flag in re.findall(r"(--[a-z-]+)", row[2])}
    assert named == {option.flag for option in OPTIONS} | {"--url"}


# --- The GPU server ---


def user_data() -> str:
    data = of_type(template(TEMPLATES[2]), "AWS::EC2::LaunchTemplate")["LaunchTemplate"]["LaunchTemplateData"]
    text: str = data["UserData"]["Fn::Base64"]["Fn::Sub"]
    return text


def test_user_data_is_a_script_that_installs_this_health_check() -> None:
    script = user_data()
    assert len(script) < 16_384  # EC2's limit
    assert (DEPLOY / "docker/health.py").read_text() in script
    files = dict(re.findall(r"cat > (\S+) <<'END'\n(.*?)\nEND\n", script, re.DOTALL))
    for shell in (script, files["/opt/remotegpu/fetch"], files["/opt/remotegpu/heal"]):
        subprocess.run(["bash", "-n"], input=shell, text=True, check=True)
    unit = files["/etc/systemd/system/remotegpu.service"]
    assert {"Restart=always", "User=remotegpu", "ExecStart=/opt/remotegpu/bin/remotegpu-server"} <= set(
        unit.split("\n")
    )
    read = {line.partition("=")[0] for line in files["/etc/remotegpu.env"].splitlines()}
    assert {"REMOTEGPU_SERVER_TLS_CERT", "REMOTEGPU_SERVER_TLS_KEY", "REMOTEGPU_SERVER_IDENTITY"} <= read
    data = of_type(template(TEMPLATES[2]), "AWS::EC2::LaunchTemplate")["LaunchTemplate"]["LaunchTemplateData"]
    assert data["MetadataOptions"]["HttpTokens"] == "required"


@pytest.mark.parametrize(
    ("active", "seconds", "restarted"), [(True, 3600, True), (True, 60, False), (False, 3600, False)]
)
def test_a_server_that_does_not_answer_is_restarted_but_not_one_that_begins(
    active: bool, seconds: int, restarted: bool, tmp_path: Path
) -> None:
    (heal,) = re.findall(r"cat > /opt/remotegpu/heal <<'END'\n(.*?)\nEND\n", user_data(), re.DOTALL)
    began = int((float(Path("/proc/uptime").read_text().split()[0]) - seconds) * 1e6)
    stub = f"""#!/bin/sh
case "$1" in
is-active) exit {int(not active)};;
show) echo {began};;
restart) echo "$2" > {tmp_path}/restarted;;
esac"""
    for name, text in {"systemctl": stub, "sleep": "#!/bin/sh", "python": "#!/bin/sh\nexit 1"}.items():
        (tmp_path / name).write_text(text + "\n")
        (tmp_path / name).chmod(0o755)
    script = heal.replace("/opt/remotegpu/bin/python", str(tmp_path / "python"))
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["bash", "-c", script], check=True, env={"PATH": path})
    assert (tmp_path / "restarted").exists() == restarted


def test_requirement_of_the_gpu_server_is_an_extra() -> None:
    default = template(TEMPLATES[2])["Parameters"]["Requirement"]["Default"]
    assert default == "remotegpu[cuda]"
    assert "cuda" in PROJECT["optional-dependencies"]
