"""Combinations that are forbidden: each spoils a valid spec in place and says which field has to be named."""

from __future__ import annotations

from collections.abc import Callable

from ultramarine_contract.meta import Manifest


def _two_sources(spec: Manifest) -> str:
    source = {"secretKeyRef": {"name": "a", "key": "b"}}
    spec["env"] = [{"name": "A", "value": "", "valueFrom": source}]
    return "spec.env.0"


def _platforms_variable(spec: Manifest) -> str:
    spec["env"] = [{"name": "ULTRAMARINE_TASK"}]
    return "spec.env.0"


def _format_of_no_model(spec: Manifest) -> str:
    spec["outputs"] = {"a": {"format": "onnx"}}
    return "spec.outputs.a"


def _variables_from_nowhere(spec: Manifest) -> str:
    spec["envFrom"] = [{"prefix": "A"}]
    return "spec.envFrom.0"


def _nodes_that_are_lost(spec: Manifest) -> str:
    spec |= {"nodes": 2}
    spec.pop("framework", None)
    return "framework"


def _as_few_as_all(spec: Manifest) -> str:
    spec |= {"nodes": 2, "framework": "none", "elastic": {"minNodes": 2}}
    return "elastic.minNodes"


def _processes_of_nobody(spec: Manifest) -> str:
    spec |= {"framework": "jax", "processesPerNode": 2}
    return "processesPerNode"


def _no_memory_to_raise(spec: Manifest) -> str:
    spec |= {"onOutOfMemory": {"maxMemory": "1Gi"}, "resources": {"requests": {"memory": "1Gi"}}}
    return "onOutOfMemory"


def _resumed_never(spec: Manifest) -> str:
    spec["checkpoint"] = {"resume": "Never", "resumeFrom": "s3://lake/a/"}
    return "spec.checkpoint"


def _success_that_fails(spec: Manifest) -> str:
    spec["podFailurePolicy"] = {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [0]}}]}
    return "spec.podFailurePolicy.rules.0.onExitCodes"


def _taint_with_any_value(spec: Manifest) -> str:
    spec["podTemplate"] = {"tolerations": [{"key": "a", "operator": "Exists", "value": "a"}]}
    return "spec.podTemplate.tolerations.0"


def _time_without_eviction(spec: Manifest) -> str:
    spec["podTemplate"] = {"tolerations": [{"operator": "Exists", "tolerationSeconds": 1}]}
    return "spec.podTemplate.tolerations.0"


def _digest_of_no_archive(spec: Manifest) -> str:
    spec["source"] = {"inline": {"train.py": "print(1)"}, "digest": "sha256:" + "a" * 64}
    return "spec.source"


def _code_from_two_places(spec: Manifest) -> str:
    spec["source"] = {"inline": {"train.py": "print(1)"}, "uri": "s3://lake/code.tar.gz"}
    return "spec.source"


def _compiling_of_no_model(spec: Manifest) -> str:
    spec["outputs"] = {"a": {"compile": {"to": "onnx"}}}
    return "spec.outputs.a"


def _code_of_no_model(spec: Manifest) -> str:
    spec["outputs"] = {"a": {"allowCodeExecution": True}}
    return "spec.outputs.a"


def _output_in_the_platforms_place(spec: Manifest) -> str:
    spec["outputs"] = {"logs": {}}
    return "spec.outputs"


def _newest_version_by_hand(spec: Manifest) -> str:
    spec["aliases"] = {"latest": "1"}
    return "spec.aliases"


def _compiling_of_what_is_compiled(spec: Manifest) -> str:
    spec |= {"format": {"name": "onnx"}, "compile": {"to": "onnx"}}
    return "compile"


def _other_number(spec: Manifest) -> str:
    spec["version"] = "2" if spec["version"] == "1" else "1"
    return "metadata.name"


def _traffic_of_one_percent_too_few(spec: Manifest) -> str:
    spec["traffic"] = {spec["deployments"][0]["name"]: 99}
    return "spec.traffic"


def _copies_for_who_answers(spec: Manifest) -> str:
    name = spec["deployments"][0]["name"]
    spec |= {"traffic": {name: 100}, "mirrorTraffic": {name: 1}}
    return "mirrorTraffic"


def _rollout_of_who_answers(spec: Manifest) -> str:
    name = spec["deployments"][0]["name"]
    spec |= {"traffic": {name: 100}, "rollout": {"candidate": name, "steps": [100]}}
    return "rollout.candidate"


def _traffic_to_nobody(spec: Manifest) -> str:
    spec["traffic"] = {"": 100}
    return "traffic"


def _keys_for_nobody(spec: Manifest) -> str:
    spec |= {"authMode": "none", "keysSecretRef": {"name": "a"}}
    return "keysSecretRef"


def _tokens_of_nobody(spec: Manifest) -> str:
    spec["authMode"] = "token"
    spec.pop("token", None)
    spec.pop("keysSecretRef", None)
    return "token"


def _two_key_sets(spec: Manifest) -> str:
    sets = {"jwks": "{}", "jwksUri": "https://id.example.com/keys"}
    spec |= {"authMode": "token", "token": {"issuer": "a", "audiences": ["a"], **sets}}
    spec.pop("keysSecretRef", None)
    return "spec.token"


def _captures_in_an_object(spec: Manifest) -> str:
    spec["dataCollector"] = {"samplingRate": 1, "uri": "s3://lake/kept"}
    return "spec.dataCollector"


_SMALL: Manifest = {"selector": {"matchLabels": {"a": "b"}}}


def _model_beside_a_pool(spec: Manifest) -> str:
    spec["deployments"][0] |= {"model": "a@1", "pool": _SMALL}
    return "spec.deployments.0"


def _neither_model_nor_pool(spec: Manifest) -> str:
    spec["deployments"][0].pop("model", None)
    spec["deployments"][0].pop("pool", None)
    return "spec.deployments.0"


def _pool_that_is_rolled_out(spec: Manifest) -> str:
    spec["deployments"] = [{"name": "a", "model": "a@1"}, {"name": "b", "pool": _SMALL}]
    spec |= {"traffic": {"a": 100}, "rollout": {"candidate": "b", "steps": [100]}}
    spec.pop("mirrorTraffic", None)
    spec.pop("dataCollector", None)
    return "rollout.candidate"


def _agreement_with_a_pool(spec: Manifest) -> str:
    spec["deployments"] = [{"name": "a", "pool": _SMALL}, {"name": "b", "model": "a@1"}]
    gates = {"agreement": 0.9}
    spec |= {"traffic": {"a": 100}, "rollout": {"candidate": "b", "steps": [10, 100], "gates": gates}}
    spec.pop("mirrorTraffic", None)
    spec.pop("dataCollector", None)
    return "rollout.gates.agreement"


def _captures_of_a_pool(spec: Manifest) -> str:
    spec["deployments"][0] = {"name": spec["deployments"][0]["name"], "pool": _SMALL}
    spec.pop("rollout", None)
    spec["dataCollector"] = {"samplingRate": 1, "uri": "s3://lake/kept/"}
    return "dataCollector"


def _warmup_of_many_models(spec: Manifest) -> str:
    name = spec["deployments"][0]["name"]
    spec["deployments"][0] = {"name": name, "pool": _SMALL, "warmup": {"request": "{}"}}
    return "spec.deployments.0"


def _tokens_beside_keys(spec: Manifest) -> str:
    spec |= {"authMode": "key", "token": {"issuer": "a", "audiences": ["a"], "jwks": "{}"}}
    return "token"


def _captures_of_no_request(spec: Manifest) -> str:
    spec["dataCollector"] = {"samplingRate": 0, "uri": "s3://lake/kept/"}
    return "spec.dataCollector"


def _scaled(spec: Manifest, **wish: object) -> str:
    usual = {"minReplicas": 1, "maxReplicas": 2, "metric": "concurrency", "target": 1}
    spec["deployments"][0]["autoscale"] = usual | wish
    return "spec.deployments.0.autoscale"


def _more_pods_than_at_most(spec: Manifest) -> str:
    return _scaled(spec, minReplicas=3)


def _cpu_of_no_pod(spec: Manifest) -> str:
    return _scaled(spec, metric="cpu", minReplicas=0)


def _more_cpu_than_there_is(spec: Manifest) -> str:
    return _scaled(spec, metric="cpu", target=101)


def _part_of_an_unknown_cpu(spec: Manifest) -> str:
    spec["deployments"][0].pop("resources", None)
    _scaled(spec, metric="cpu")
    return "spec.deployments.0"


def _rolled_out(spec: Manifest, **rollout: object) -> None:
    """Put a rollout that is right but for what is given into a spec."""
    spec["deployments"] = [{"name": "a", "model": "a@1"}, {"name": "b", "model": "a@2"}]
    spec |= {"traffic": {"a": 100}, "rollout": {"candidate": "b", "steps": [10, 100], **rollout}}
    spec.pop("mirrorTraffic", None)


def _rollout_of_nobody(spec: Manifest) -> str:
    _rolled_out(spec, candidate="c")
    return "rollout.candidate"


def _steps_down(spec: Manifest) -> str:
    _rolled_out(spec, steps=[50, 10, 100])
    return "spec.rollout.steps"


def _steps_that_end_early(spec: Manifest) -> str:
    _rolled_out(spec, steps=[10, 50])
    return "spec.rollout.steps"


def _gates_beside_nobody(spec: Manifest) -> str:
    _rolled_out(spec, steps=[100], gates={"p99Ratio": 1.2})
    return "spec.rollout"


def _gates_of_nothing(spec: Manifest) -> str:
    _rolled_out(spec, gates={})
    return "spec.rollout.gates"


def _copies_for_who_is_judged(spec: Manifest) -> str:
    _rolled_out(spec)
    spec["mirrorTraffic"] = {"b": 10}
    return "mirrorTraffic"


def _one_objective_and_several(spec: Manifest) -> str:
    spec |= {"objective": {"metric": "a"}, "objectives": [{"metric": "a"}, {"metric": "b"}]}
    return "objective"


def _more_at_once_than_in_all(spec: Manifest) -> str:
    spec["limits"] = {"maxTrials": 1, "parallelTrials": 2}
    return "spec.limits"


def _backwards(spec: Manifest) -> str:
    spec["searchSpace"] = {"a": {"uniform": {"min": 1, "max": 0}}}
    return "spec.searchSpace.a.uniform"


def _two_ranges(spec: Manifest) -> str:
    spec["searchSpace"] = {"a": {"uniform": {"min": 0, "max": 1}, "int": {"min": 0, "max": 1}}}
    return "spec.searchSpace.a"


def _endless_grid(spec: Manifest) -> str:
    spec |= {"searchSpace": {"a": {"uniform": {"min": 0, "max": 1}}}, "algorithm": {"type": "grid"}}
    return "grid"


def _trials_of_several_nodes(spec: Manifest) -> str:
    spec["trialTemplate"]["spec"] |= {"nodes": 2, "framework": "none"}
    return "a trial runs in one pod"


def _trials_that_register(spec: Manifest) -> str:
    spec["trialTemplate"]["spec"]["outputs"] = {"a": {"registerAs": "a"}}
    return "registerAs"


def _checkpoints_that_nobody_goes_on_from(spec: Manifest) -> str:
    spec.pop("earlyTermination", None)
    spec["execution"] = "Pool"
    spec["trialTemplate"]["spec"]["checkpoint"] = {}
    return "a pool keeps checkpoints only for earlyTermination of type asha or hyperband"


def _slack_of_a_median(spec: Manifest) -> str:
    spec["earlyTermination"] = {"type": "median", "slackFactor": 1}
    return "spec.earlyTermination"


CLASHES: dict[str, list[Callable[[Manifest], str]]] = {
    "TrainingJob": [
        _two_sources,
        _platforms_variable,
        _format_of_no_model,
        _variables_from_nowhere,
        _nodes_that_are_lost,
        _as_few_as_all,
        _processes_of_nobody,
        _no_memory_to_raise,
        _resumed_never,
        _success_that_fails,
        _taint_with_any_value,
        _time_without_eviction,
        _digest_of_no_archive,
        _code_from_two_places,
        _compiling_of_no_model,
        _code_of_no_model,
        _output_in_the_platforms_place,
    ],
    "Model": [_newest_version_by_hand],
    "ModelVersion": [_other_number, _compiling_of_what_is_compiled],
    "OnlineEndpoint": [
        _traffic_of_one_percent_too_few,
        _traffic_to_nobody,
        _copies_for_who_answers,
        _rollout_of_who_answers,
        _keys_for_nobody,
        _tokens_of_nobody,
        _two_key_sets,
        _captures_in_an_object,
        _model_beside_a_pool,
        _neither_model_nor_pool,
        _pool_that_is_rolled_out,
        _agreement_with_a_pool,
        _captures_of_a_pool,
        _warmup_of_many_models,
        _tokens_beside_keys,
        _captures_of_no_request,
        _more_pods_than_at_most,
        _cpu_of_no_pod,
        _more_cpu_than_there_is,
        _part_of_an_unknown_cpu,
        _rollout_of_nobody,
        _steps_down,
        _steps_that_end_early,
        _gates_beside_nobody,
        _gates_of_nothing,
        _copies_for_who_is_judged,
    ],
    "Sweep": [
        _one_objective_and_several,
        _more_at_once_than_in_all,
        _backwards,
        _two_ranges,
        _endless_grid,
        _trials_of_several_nodes,
        _trials_that_register,
        _checkpoints_that_nobody_goes_on_from,
        _slack_of_a_median,
    ],
}
