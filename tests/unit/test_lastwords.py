"""The line that says why a command failed: from texts that real programs have written."""

from __future__ import annotations

import pytest
from ultramarine_contract.lastwords import LONGEST, last_words, remedy
from ultramarine_trainer.attempt.lines import Tail

XGBOOST = """\
Traceback (most recent call last):
  File "/workspace/train.py", line 3, in <module>
    xgb.train({"objective":"multi:softmax","num_class":3}, d)
  File "/usr/lib/python3.11/site-packages/xgboost/core.py", line 726, in inner_f
    return func(**kwargs)
           ^^^^^^^^^^^^^^
xgboost.core.XGBoostError: [01:00:14] /src/objective/multiclass_obj.cu:64: Check failed: valid: label must be in [0, 3).
Stack trace:
  [bt] (0) /usr/lib/python3.11/site-packages/xgboost/lib/libxgboost.so(+0x11031e) [0x7f591ef1031e]
  [bt] (8) /usr/lib/python3.11/lib-dynload/_ctypes.cpython-311-x86_64-linux-gnu.so(+0x1117a) [0x7f593f5a717a]
"""
LIGHTGBM = """\
[LightGBM] [Fatal] Label must be in [0, 2), but found 2 in label
Traceback (most recent call last):
  File "/workspace/train.py", line 2, in <module>
    lgb.train({}, data)
lightgbm.basic.LightGBMError: Label must be in [0, 2), but found 2 in label
"""
GRID = """\
Traceback (most recent call last):
  File "/workspace/train.py", line 4, in <module>
    GridSearchCV(LogisticRegression(), {"C":[-1]}).fit(x, y)
ValueError:
All the 5 fits failed.
You can try to debug the error by setting error_score='raise'.
Below are more details about the failures:
--------------------------------------------------------------------------------
5 fits failed with the following error:
Traceback (most recent call last):
  File "/usr/lib/python3.11/site-packages/sklearn/base.py", line 1387, in wrapper
    estimator._validate_params()
sklearn.utils._param_validation.InvalidParameterError: The 'C' parameter must be a float in the range (0.0, inf].
"""
NOTE = """\
Traceback (most recent call last):
  File "/workspace/train.py", line 2, in <module>
    raise ValueError("bad column 'x'")
ValueError: bad column 'x'
second line of it
"""
SYNTAX = """\
  File "/workspace/train.py", line 3
    fit(
       ^
SyntaxError: '(' was never closed
"""
CHAINED = """\
Traceback (most recent call last):
  File "/workspace/train.py", line 1, in <module>
    a["b"]
KeyError: 'b'
During handling of the above exception, another exception occurred:
Traceback (most recent call last):
  File "/workspace/train.py", line 3, in <module>
    raise SystemError("no column b")
SystemError: no column b
"""
TORCHRUN = """\
[rank0]: Traceback (most recent call last):
[rank0]:   File "/workspace/train.py", line 5, in <module>
[rank0]:     main()
[rank0]: RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x3 and 2x1)
Traceback (most recent call last):
  File "/usr/bin/torchrun", line 8, in <module>
    sys.exit(main())
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
train.py FAILED
------------------------------------------------------------
  exitcode  : 1 (pid: 1234)
============================================================
"""
GROUP = """\
  + Exception Group Traceback (most recent call last):
  |   File "/workspace/train.py", line 1, in <module>
  |     raise ExceptionGroup("several", [ValueError("a")])
  | ExceptionGroup: several (1 sub-exception)
  +-+---------------- 1 ----------------
    | ValueError: a
    +------------------------------------
"""
HANDLED = NOTE + "".join(f"epoch={epoch} loss=0.1\n" for epoch in range(50)) + "no space for the result\n"
CAUGHT = (
    SYNTAX.replace("SyntaxError: '(' was never closed", "FileNotFoundError: cache.pkl")
    + "epoch 1 done\nCUDA out of memory\nERROR:elastic.api:failed (exitcode: 1) of binary: python\n"
)
ASSERT = """\
  File "/workspace/train.py", line 3, in <module>
RuntimeError: CUDA error: device-side assert triggered
CUDA kernel errors might be asynchronously reported at some other API call.
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""
LAUNCHER = SYNTAX + (
    "E1201 01:00:00.1 10 torch/distributed/elastic/multiprocessing/api.py:882] failed (exitcode: 1) local_rank: 0\n"
    "mpirun noticed that process rank 0 exited on signal 6\nwandb: Synced\nmake: *** [train] Error 1\n"
)
TIMED = "\nreal\t0m3.210s\nuser\t0m1.000s\nsys 0.05\n"
GNU_TIME = (
    "0.03user 0.01system 0:00.05elapsed 99%CPU (0avgtext+0avgdata 9000maxresident)k\n0inputs+8outputs (0major+9minor)\n"
)
CPP = "terminate called after throwing an instance of 'std::runtime_error'\n  what():  shape mismatch: 3 vs 4\n"
FRAMES = "boost: bad alloc\nStack trace:\n  [bt] (0) a.so [0x1]\nframe #0: c10::Error + 0x5a (0x7f in libc10.so)\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            XGBOOST,
            "xgboost.core.XGBoostError: /src/objective/multiclass_obj.cu:64: Check failed: valid: label must be ",
        ),
        (LIGHTGBM, "lightgbm.basic.LightGBMError: Label must be in [0, 2), but found 2 in label"),
        (GRID, "sklearn.utils._param_validation.InvalidParameterError: The 'C' parameter must be a float in the range"),
        (NOTE, "ValueError: bad column 'x' second line of it"),
        (SYNTAX, "SyntaxError: '(' was never closed"),
        (CHAINED, "SystemError: no column b"),
        (TORCHRUN, "RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x3 and 2x1)"),
        (GROUP, "ExceptionGroup: several (1 sub-exception) ValueError: a"),
        (HANDLED, "no space for the result"),
        (CAUGHT, "CUDA out of memory"),
        (ASSERT, "RuntimeError: CUDA error: device-side assert triggered CUDA kernel errors might be asynchronously"),
        ("no column b" + TIMED, "no column b"),
        ("no column b\n" + GNU_TIME, "no column b"),
        (CPP, "what():  shape mismatch: 3 vs 4"),
        (FRAMES, "boost: bad alloc"),
        ("usage: train.py [-h] [--lr LR]\ntrain.py: error: unrecognized arguments: --rl\n", "train.py: error: unrec"),
        ("----\n", "----"),
        ("", ""),
    ],
)
def test_the_words_are_the_cause_and_not_the_end_of_its_stack(text: str, words: str) -> None:
    """An exception's own line is taken, however long the stack is that a library prints behind it."""
    assert last_words(text.splitlines()).startswith(words)
    assert (not words) == (not last_words(text.splitlines()))


def test_launchers_and_times_are_no_part_of_the_message() -> None:
    """A launcher, a tracker and the program time print behind the exception."""
    assert last_words((LAUNCHER + TIMED + GNU_TIME).splitlines()) == "SyntaxError: '(' was never closed"


def test_the_line_alone_has_the_words_behind_its_colon() -> None:
    """By the exception's own line a failure is known again; a bare name of an exception would be too little."""
    assert last_words(NOTE.splitlines(), alone=True) == "ValueError: bad column 'x'"
    assert last_words(NOTE.replace(" bad column 'x'", "").splitlines(), alone=True) == "ValueError: second line of it"


def test_what_stdout_says_is_no_part_of_an_exception() -> None:
    """The two streams come in any order, so a line of stdout may arrive within a message or behind it."""
    tail = Tail()
    for line in NOTE.splitlines():
        tail.add(line)
        tail.add("epoch=1 loss=0.5", True)
    assert tail.words == "ValueError: bad column 'x' second line of it"


def test_a_long_stack_pushes_the_words_out_of_the_tail_alone() -> None:
    """The trainer remembers more than the tail shows, and the words stay short."""
    tail = Tail()
    for line in XGBOOST.splitlines():
        tail.add(line)
    for number in range(30):
        tail.add(f"  [bt] ({number}) {'x' * 200}")
    assert "XGBoostError" not in str(tail)
    assert tail.words.startswith("xgboost.core.XGBoostError: /src/objective")
    tail.add("x" * 4000)
    assert len(str(tail)) <= 2000
    assert len(last_words(["y" * 4000])) == LONGEST


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("urllib.error.URLError: <urlopen error [Errno -2] Name or service not known>", "networkPolicies.egress"),
        ("requests.exceptions.ConnectionError: HTTPSConnectionPool(host='a.b'): Max retries exceeded", "training.md"),
        ("OSError: We couldn't connect to 'https://huggingface.co' to load the files", "networkPolicies.egress"),
        ("ConnectionRefusedError: [Errno 111] Connection refused", "networkPolicies.egress"),
        ("TimeoutError: timed out", "networkPolicies.egress"),
        ("ModuleNotFoundError: No module named 'catboost.core'", "if catboost is not a file of your own"),
        ("ImportError: Missing optional dependency 'openpyxl'. Use pip to install openpyxl.", "if openpyxl is not a"),
        ("ERROR: No matching distribution found for scikit-survival>=0.2", "if scikit-survival is not a file"),
        ("curl: (6) Could not resolve host: example.com", "networkPolicies.egress"),
        ("subprocess.TimeoutExpired: Command 'fit' timed out after 5 seconds", ""),
        ("ValueError: the network has no connected layers", ""),
        ("KeyError: 'time'", ""),
        ("KeyError: 'timeouterror'", ""),
        ("RuntimeError: unable to resolve operation aten::foo", ""),
        ("AssertionError: disconnect after time out", ""),
        ("command exited with code 1: asyncio.exceptions.TimeoutError", "networkPolicies.egress"),
        ("ssl.SSLError: The handshake operation timed out", "networkPolicies.egress"),
        ("wget: unable to resolve host address 'example.com'", "networkPolicies.egress"),
        ("Connection to db.team-a timed out. (connect timeout=5)", "networkPolicies.egress"),
        ("http.client.RemoteDisconnected: Remote end closed connection without response", "networkPolicies.egress"),
        ("x" * LONGEST + " connection refused", "networkPolicies.egress"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'churn.csv'", "$(inputs.NAME)"),
        ("x" * 2 * LONGEST + " connection refused", ""),  # a tenant's words may be long
    ],
)
def test_what_the_platform_can_help_with_has_a_remedy(words: str, part: str) -> None:
    """A host that cannot be reached and a package that is missing are no faults of the code."""
    assert (part in remedy(words)) if part else remedy(words) == ""
