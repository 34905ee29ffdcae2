"""Meaning and remedy of the conditions, reasons and events of everything that runs to its end."""

from __future__ import annotations

from ..shared.reasons import STORAGE, Lines, Table

# A pod that waits: reasons of Kubernetes.
_WAITING: Lines = {
    "ErrImagePull": ("The image cannot be pulled.", "Correct the image's name or the pull secret."),
    "ImagePullBackOff": ("The image cannot be pulled; Kubernetes tries again.", "Correct the image or pull secret."),
    "InvalidImageName": ("The image's name is malformed.", "Correct the image's name."),
    "ErrImageNeverPull": ("The image is not on the node.", "Load the image, or change the pull policy."),
    "ImageInspectError": ("The node cannot read the image.", "Check the node's container runtime."),
    "CreateContainerConfigError": ("A Secret or ConfigMap is missing.", "Create it; the pod then starts."),
    "CreateContainerError": ("The container cannot be created.", "Follow the message."),
    "RunContainerError": ("The container cannot start.", "Follow the message."),
    "CrashLoopBackOff": ("The container fails repeatedly.", "Read the cause in the message."),
    "Unschedulable": ("No node has room for the pod.", "Request less, or add a node."),
}
# Files of deleted versions: the condition ArtifactsDeleted, and events.
DELETING: Lines = {
    "NothingLeft": ("No artifact is left to delete.", ""),
    "VersionsExist": ("Artifacts go when their versions are deleted.", ""),
    "Deleting": ("Artifacts of deleted versions are being deleted.", ""),
    "DeletionFailed": ("An artifact cannot be deleted; it is retried.", "Follow the message."),
}
DELETED: Lines = {
    "VersionsRetired": ("spec.retention deleted versions.", ""),
    "ArtifactDeleted": ("The files of a deleted version are gone.", ""),
    "ArtifactRetained": ("Files stay, since another version uses them.", ""),
}
# An attempt that failed. status.failure, the conditions Failed and Succeeded, and the history of attempts have them.
FAILURES: Lines = {
    **STORAGE,
    **_WAITING,
    "InvalidSpec": ("The spec is invalid.", "Correct the field in the message."),
    "CommandFailed": ("The command exited with an error.", "Read status.failure.tail and the log."),
    "CommandNotFound": ("The program of the command does not exist.", "Correct spec.command[0]."),
    "ContainerFailed": ("A container of the platform in the pod failed.", "Read its log."),
    "PodFailed": ("The pod failed without a reason.", "Read the pod's events."),
    "OOMKilled": ("The command exceeded its memory limit.", "Raise resources.limits.memory."),
    "Evicted": ("The node evicted the pod.", "Reserve what it needs in resources.requests."),
    "Error": ("The container ended with an error.", "Read its log."),
    "StartError": ("The node cannot start the container.", "Read the pod's events."),
    "ContainerCannotRun": ("The node cannot run the container.", "Read the pod's events."),
    "ImageNotSuitable": ("The image lacks the platform's entry point.", "Build it from the trainer image."),
    "JobFailed": ("Kubernetes ended the Job without a reason.", "Read the Job's events."),
    "Cancelled": ("spec.cancel is true.", "Submit it again; `ultramarine repro` prints the manifest of a job."),
    "DeadlineExceeded": ("The run exceeded spec.activeDeadlineSeconds.", "Raise the limit, or do less."),
    "EnvironmentFailed": ("The environment was not built.", "Correct the requirements in the message."),
    "PendingDeadlineExceeded": ("A pod did not start in spec.pendingDeadlineSeconds.", "Raise it, or free a node."),
    "NoPod": ("Kubernetes creates no pod.", "Follow the message, often a quota or a policy."),
    "SameFailureTwice": ("Two attempts failed at once in the same way.", "Correct the cause; start a new object."),
    "LocalDiskError": ("The pod's disk is full or failing.", "Raise resources.limits[ephemeral-storage]."),
    "DiskFull": ("The inputs are larger than the pod's disk.", "Raise the limit, or use mode: Stream."),
    "InputNotFound": ("No data exists at the URI of an input.", "Upload the data or correct the URI."),
    "InvalidURI": ("A URI of the storage is malformed.", "Correct the URI."),
    "InvalidKey": ("An object's name cannot become a file's name.", "Rename the object in the storage."),
    "DigestMismatch": ("Content differs from its digest.", "Correct the digest, or upload the file again."),
    "DataChanged": ("An input is not the data of its version.", "Restore the files, or read another version."),
    "DatasetNotFound": ("The version of a dataset cannot be read.", "Correct the input; start a new object."),
    "EnvironmentInvalid": ("The archive of the environment cannot be unpacked.", "Create the Environment again."),
    "OutputEmpty": ("The command wrote nothing into an output.", "Write the files, or remove the output."),
    "OutputInvalid": ("An output is not the model that it should be.", "Save it as the message tells."),
    "ModelNotCopied": ("The model that the run logged in MLflow cannot be read.", "Check MLflow's storage."),
    "SourceNotFound": ("The source does not exist.", "Correct spec.source."),
    "SourceInvalid": ("The source's archive cannot be unpacked.", "Upload a tar archive."),
    "SourceUnreachable": ("The source's server does not answer.", "Check its URL and the network policies."),
    "GitRefNotFound": ("The repository has no such branch, tag or commit.", "Correct spec.source.git.ref."),
    "GitPathNotFound": ("The repository has no such folder.", "Correct spec.source.git.path."),
    "GitCredentialsNotFound": ("The Secret of the repository is missing.", "Create it, or remove secretRef."),
    "GitCredentialsInvalid": ("The Secret of the repository lacks a key.", "Add the key in the message."),
    "GitCredentialsRefused": ("The repository refuses the credentials.", "Correct the Secret."),
    "GitCertificateUnknown": ("The repository's certificate has an unknown CA.", "Add ca.crt to the Secret."),
    "GitHostKeyUnknown": ("The repository's host key is unknown.", "Add it to known_hosts in the Secret."),
    "GitHostKeyChanged": ("The repository's host key has changed.", "Verify it, then update known_hosts."),
    "TaskInvalid": ("The image is of another release.", "Rebuild it from this release's trainer image."),
    "TrialTimeout": ("The trial exceeded limits.trialTimeoutSeconds.", "Raise the limit."),
    "StoppedEarly": ("The sweep ended the trial early.", ""),
    "Stopped": ("The pod was asked to end.", ""),
    "TrialOver": ("The sweep had already counted the trial as ended.", ""),
}

RUNS = Table(
    title="Runs: TrainingJob and Sweep",
    conditions={
        "Suspended": "The run is held by spec.suspend, and has no pods.",
        "Running": "The command runs, or trials do.",
        "Succeeded": "The run has ended well, and its results are registered.",
        "Failed": "The run has ended without a result.",
    },
    reasons={
        "Suspended": {
            "Suspended": ("spec.suspend is true.", "Set it to false to continue."),
            "NotSuspended": ("The run is not held.", ""),
        },
        "Running": {
            **_WAITING,
            "EnvironmentNotReady": ("The environment is not built yet.", "Follow the message."),
            "DatasetNotReady": ("The version of a dataset is not ready yet.", "Follow the message."),
            "Queued": ("Kueue holds the run until its queue has room.", ""),
            "JobEnding": ("An earlier Job is being deleted first.", ""),
            "NoPod": ("Kubernetes creates no pod.", "Follow the message, often a quota or a policy."),
            "Retrying": ("An attempt failed, and another follows.", "Read the cause in status.failure."),
            "Suspended": ("spec.suspend is true.", "Set it to false to continue."),
            "Finishing": ("The run has ended; its result is awaited.", ""),
            "Registering": ("The result is being registered as a ModelVersion.", ""),
            "Finished": ("The run has ended.", ""),
        },
        "Succeeded": {
            "Finished": ("The run has ended well.", ""),
            "StoppedEarly": ("The sweep ended the trial early.", ""),
        },
        "Failed": FAILURES,
    },
    events={
        "Started": ("The command or the first trials run.", ""),
        "Suspended": ("The run is held.", ""),
        "Succeeded": ("The run has ended well.", ""),
        "StoppedEarly": ("The sweep ended the trial early.", ""),
        "Doubtful": ("The spec is valid but probably mistaken.", "Read the message."),
    },
)
