"""Meaning and remedy of the reasons that OnlineEndpoints show."""

from __future__ import annotations

from ...shared.reasons import Table

TABLES = (
    Table(
        title="OnlineEndpoint",
        conditions={
            "Ready": "The endpoint answers requests.",
            "RoutesReady": "Each gateway pod routes as the spec asks.",
            "RolloutHealthy": "The rollout proceeds or has succeeded; Unknown before the first evidence.",
            "ScalingActive": "Autoscaling follows the load.",
            "SignatureChanged": "Shown only while True: clients of the earlier version may fail.",
        },
        reasons={
            "Ready": {
                "Serving": ("Each deployment of traffic answers.", ""),
                "Switching": ("Earlier deployments answer until the new ones take over.", ""),
                "Diverted": ("Other deployments answer for one without a pod.", "Read the cause in the message."),
                "Updating": ("Pods are being replaced.", ""),
                "Waiting": ("A deployment waits for version, environment, Secret or pod.", "Follow the message."),
                "Failing": ("A deployment's pods or environment fail.", "Read the cause in the message."),
                "Stopped": ("The deployment has replicas: 0.", "Raise replicas to serve again."),
                "Ready": ("The deployment is ready, but the routes are not.", ""),
                "InvalidSpec": ("The spec is invalid.", "Correct the field in the message."),
            },
            "RoutesReady": {
                "Confirmed": ("Each gateway pod has the newest routes.", ""),
                "Updating": ("Gateway pods are taking the newest routes.", ""),
                "NoGateway": ("No gateway pod is ready in the namespace.", "Enable or repair the gateway."),
                "Unreachable": ("A gateway pod does not answer.", "Check the pod and the network policies."),
                "BadAnswer": ("A gateway pod gives a malformed answer.", "Upgrade the chart completely."),
                "OperatorError": ("The operator could not ask the gateway: a bug.", "Report it with its log."),
                "PortTaken": ("Another endpoint has the port; the next one is tried.", ""),
                "SecretMissing": ("The Secret of keys or certificate is missing.", "Create it as in the message."),
                "NoKeySet": ("The issuer's key set cannot be fetched.", "Correct token.jwksUri or gateway.issuers."),
                "Refused": ("The gateway refuses the routes.", "Follow the message."),
            },
            "RolloutHealthy": {
                "Waiting": ("The step waits for pods or gateway.", ""),
                "NoGateway": ("A rollout needs the gateway.", "Enable it, or remove rollout."),
                "NothingToServe": ("The candidate's model cannot be served.", "Correct the candidate."),
                "NoFigures": ("Gateway pods report no metrics.", "Use the chart's gateway, or remove gates."),
                "ChampionFirst": ("The champion must get all requests first.", ""),
                "ChampionNotReady": ("The champion has no ready pod to compare with.", "Repair the champion."),
                "Started": ("The first step begins.", ""),
                "Progressing": ("The step collects evidence.", ""),
                "InsufficientData": ("Too few requests for a verdict.", "Send requests, or wait."),
                "GateFailed": ("The candidate failed a gate.", "Change the candidate; a new rollout then starts."),
                "CandidateFailing": ("The candidate's pods fail.", "Correct it; a new rollout then starts."),
                "SignatureChanged": ("The candidate refuses the champion's requests.", "Roll out compatible inputs."),
                "Promoted": ("The candidate passed each step.", "Give it 100 in traffic, and remove rollout."),
            },
            "ScalingActive": {
                "LoadKnown": ("Autoscaling follows the load.", ""),
                "NoFigures": ("Gateway pods report no metrics.", "Check the gateway pods."),
                "NoGateway": ("Autoscaling by requests needs the gateway.", "Enable it, or use metric: cpu."),
                "Unreachable": ("A gateway pod does not answer.", "Check the pod and the network policies."),
                "BadAnswer": ("A gateway pod gives a malformed answer.", "Upgrade the chart completely."),
                "OperatorError": ("The operator could not ask the gateway: a bug.", "Report it with its log."),
            },
            "SignatureChanged": {
                "InputsDiffer": ("Versions of the endpoint take different inputs.", "Adapt the clients, or roll back."),
            },
        },
        events={
            "Ready": ("The endpoint answers.", ""),
            "NotReady": ("The endpoint does not answer any more.", "Follow the message."),
            "DeploymentFailing": ("A deployment's pods or environment fail.", "Read the cause in the message."),
            "Waiting": ("A deployment waits for something.", "Follow the message."),
            "VersionChosen": ("An alias moved, and a deployment follows.", ""),
            "Scaled": ("Autoscaling changed the number of pods.", ""),
            "KeysReplaced": ("The deleted Secret of keys was generated again.", "Give clients the new keys."),
            "SecretMissing": ("The Secret of the certificate is missing.", "Create it with tls.crt and tls.key."),
            "SignatureChanged": ("Versions of the endpoint take different inputs.", "Adapt the clients."),
            "TrafficDiverted": ("Other deployments answer for one without a pod.", "Read the cause."),
            "TrafficTurned": ("The shares of traffic have changed.", ""),
            "RolloutStarted": ("A rollout begins.", ""),
            "RolloutStep": ("A step of the rollout begins.", ""),
            "RolloutPassed": ("The candidate passed a step.", ""),
            "RolloutPaused": ("The candidate failed, and the traffic stays.", "Read the cause in the message."),
            "RolledBack": ("The candidate failed, and the champion answers.", "Read the cause in the message."),
            "Promoted": ("The candidate passed each step.", "Give it 100 in traffic, and remove rollout."),
        },
    ),
)
