"""One lifecycle for everything that runs to its end.

A kind whose objects run to an end supplies three things: the children of the run, the verdict on their end, and the
facts in its status. Everything else is here. A kind with one Job has a plan of this shape::

    READER = ResultReader(BuildRecord.from_json, uri=..., container="build")

    def questions(build, seen):
        return () if is_over(build.status) else READER.questions(JobView.find(build, build.name, seen))

    def plan(build, seen, now):
        job = JobView.find(build, build.name, seen)
        if is_over(build.status):
            return runs.after_end(build, BUILD, now, [(job.ref, timedelta())] if job and job.goes_on else [])
        status = runs.former(build, BuildStatus)
        if job is None:
            return runs.planned(build, pending("PodStarting", ...), status, now, apply=(build_job(build),))
        match READER.outcome(job, seen, now):
            case Done(record):
                status.image = record.image
                return runs.finish(build, succeeded("built"), status, now, job=job)
            case Failed() as failed:
                return runs.finish(build, states.failed(failed.reason, failed.message), status, now, job=job)
            case Closing() | Unanswered() as early:
                return runs.planned(build, finishing("Finishing", ...), status, now, after=early.after)
        ...  # None: it goes on, and `waiting` says for what

`views` has JobView and PodView: Jobs and pods as they are read. `results` reads how a Job ended, and its result, from
a termination message or from the storage. `status` reads the former status, plans the next one with its events, and
ends a run. `waiting` has patience with pods that wait, and the reasons why a Job has none. `queues` changes Jobs that
exist and respects queues of Kueue. `registration` makes ModelVersions of outputs, exactly once.

This package knows no kind by name. A status field that does not validate is left out, never a reason to stop.
"""

from .results import Closing, Done, Failed, Lost, Outcome, ResultReader, Unanswered, failed
from .status import SOON, after_end, end, failure, finish, former, planned, seconds_between
from .views import JobView, PodView, first_trouble

__all__ = [
    "SOON",
    "Closing",
    "Done",
    "Failed",
    "JobView",
    "Lost",
    "Outcome",
    "PodView",
    "ResultReader",
    "Unanswered",
    "after_end",
    "end",
    "failed",
    "failure",
    "finish",
    "first_trouble",
    "former",
    "planned",
    "seconds_between",
]
