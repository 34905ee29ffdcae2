"""Test material of OnlineEndpoint."""

from ....shared.testing import Material, Neighbour, applied
from ..endpoint import ANNOTATION_REVISION, ANNOTATION_VERSION, LABEL_DEPLOYMENT
from .drawn import complete
from .lives import LIVES
from .own_code import OWN_CODE_RULES
from .rules import LONE, RULES
from .samples import SAMPLES, WHOLE

MATERIAL = Material(
    kind="OnlineEndpoint",
    whole=WHOLE,
    least={"deployments": [{"name": "a", "model": "m@1"}]},
    defaults={"authMode": "key"},
    edit={"authMode": "none"},
    free=(
        {"authMode": "none", "keysSecretRef": None, "traffic": {"blue": 0, "green": 100}},
        {"deployments": [{"name": "red", "model": "churn@9"}], "traffic": None, **LONE},
        {"rollout": {"candidate": "green", "steps": [100], "gates": None}},
    ),
    rules=(*RULES, *OWN_CODE_RULES),
    lives=LIVES,
    samples=SAMPLES,
    complete=complete,
    neighbour=Neighbour(
        lambda name, _: applied(
            "OnlineEndpoint", name, {"deployments": [{"name": "blue", "model": f"{name}@champion"}]}
        ),
        children=(("Service", "NAME"), ("Deployment", "NAME-blue")),
        pods=(("NAME-blue-abcde", ("Deployment", "NAME-blue")),),
    ),
    labels=(LABEL_DEPLOYMENT,),
    annotations=(ANNOTATION_REVISION, ANNOTATION_VERSION),
)
