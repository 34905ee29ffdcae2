"""Schedules: triggers become cron expressions, and the job a template; data imports become Datasets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from zoneinfo import ZoneInfo

from pydantic import TypeAdapter, ValidationError
from ultramarine_contract.meta import Manifest

from ultramarine.azureml.context import Context, Refused, metadata_of, object_name
from ultramarine.azureml.data import reference
from ultramarine.azureml.fields import Fields
from ultramarine.azureml.jobs import Run
from ultramarine.azureml.reading import Document, Unreadable
from ultramarine.azureml.recognition import schema_of
from ultramarine.azureml.report import shown
from ultramarine.resources.base import URI_PATTERN
from ultramarine.resources.cron import Cron

MAX_SCHEDULE = 28
LOST = {"tags": ("are not kept", "Set annotations"), "is_enabled": ("is not read", "Set spec.suspend")}
IGNORED = ("name", "display_name", "description", "experiment_name", "provisioning_state")
DAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
# Lengths of the unit that an interval must divide, so that a cron expression has the same times.
_WHOLE = {"minute": 60, "hour": 24, "month": 12}
Template = Callable[[Context, Fields, str], Run]


def convert_schedule(context: Context, fields: Fields, templates: Mapping[str, Template]) -> None:
    """Make a Schedule, or a Dataset with refreshes for an import. `templates` has what makes a run, by schema."""
    trigger = fields.section("trigger")
    if not trigger:
        raise Refused("has no trigger. Give cron with an expression, or recurrence with a frequency")
    spec = times_of(trigger)
    trigger.close()
    if "import_data" in fields:
        section, document = _named(context, fields, "import_data")
        if spec.keys() - {"cron", "timeZone"}:
            trigger.lose("start_time", "a refresh has no start and end", "Apply the Dataset at that time")
        convert_import(context, section, document, {key: spec[key] for key in ("cron", "timeZone") if key in spec})
        if document is not fields.document:
            context.note(fields.document, context.noted(document)[-1])
        if "name" in fields:
            fields.note("name", "the Dataset has the name of the import")
        fields.close(LOST, IGNORED)
        return
    if str(fields.take("is_enabled")).lower() == "false":
        spec["suspend"] = True
    spec["template"], annotations = _template(context, fields, templates)
    name = context.names.free("Schedule", fields.text("name") or fields.document.file.stem, MAX_SCHEDULE)
    annotations |= metadata_of(fields).get("annotations", {})
    fields.close(LOST, IGNORED)
    context.add(fields.document, "Schedule", name, spec, {"annotations": annotations} if annotations else None)


def _named(context: Context, fields: Fields, key: str) -> tuple[Fields, Document]:
    """Return the fields that a field holds, or those of the file that it names, and their document."""
    value = fields.take(key)
    if isinstance(value, dict):
        return fields.section(key), fields.document
    text = fields.text(key).strip()
    named = reference(text)
    if named is not None:
        documents = [document for document in context.runs if _is_named(document, named[0])]
        if not documents:
            raise Refused(f"names {named[0]}, which no file defines. Name its file in {key}")
        document = documents[0]
        context.parts.setdefault(document.file.resolve(), set()).add(fields.document.file.resolve())
    else:
        path = context.local(fields, text)
        try:
            document = context.part(fields, path)
        except Unreadable as error:
            raise Refused(f"names {shown(path)}, which {error.message}") from error
    return context.fields(document), document


def _is_named(document: Document, name: str) -> bool:
    return name in (document.value.get("name"), document.value.get("display_name"), document.file.stem)


def _template(context: Context, fields: Fields, templates: Mapping[str, Template]) -> tuple[Manifest, dict[str, str]]:
    """Return the template of `create_job`, a file or a mapping that names one or is the job, and its annotations."""
    section, document = _named(context, fields, "create_job")
    if "job" in section:
        changes = section
        section, document = _named(context, changes, "job")
        for key in changes.keys:
            if key not in ("job", "type") and not _change(changes, key, section):
                changes.lose(key, "is not changed for the runs", "Change it in the job's file")
        changes.close()
    schema = schema_of(section.values)
    if schema not in templates:
        raise Refused(f"names a job in create_job that is {schema}")
    section.take("name")  # each run has a name of its own
    annotations = metadata_of(section).get("annotations", {})
    run = templates[schema](context, section, object_name(document.file.stem))
    if run.kind == "Pipeline":
        raise Refused("schedules a pipeline whose inputs have no values. Give them in create_job.inputs")
    return {"kind": run.kind, "spec": run.spec}, annotations


def _change(changes: Fields, key: str, section: Fields) -> bool:
    """Put a field of `create_job` into the job; True if it is one that a job has."""
    value = changes.take(key)
    if key in ("inputs", "outputs", "settings", "limits", "tags") and isinstance(value, dict):
        former = section.take(key)
        section.put(key, {**(former if isinstance(former, dict) else {}), **value})
        return True
    if key in ("compute", "display_name", "description", "experiment_name"):
        section.put(key, value)
        return True
    return False


def times_of(trigger: Fields) -> Manifest:
    """Return cron, timeZone, start and end of a trigger."""
    zone = _zone(trigger)
    start, end = (_moment(trigger, key, zone) for key in ("start_time", "end_time"))
    type = trigger.text("type").lower()
    expression = trigger.text("expression")
    if type == "cron" or (not type and expression):
        cron = " ".join(expression.split())
        try:
            TypeAdapter(Cron).validate_python(cron)
        except ValidationError as error:
            remedy = "Write five fields, such as '0 3 * * *'"
            raise Refused(f"has the cron expression {cron[:40]!r}, which is not valid. {remedy}") from error
    else:
        cron = _recurrence(trigger, start)
    times: Manifest = {"cron": cron}
    if zone:
        times["timeZone"] = zone
    if start is not None and end is not None and start >= end:
        trigger.lose("end_time", "is not later than start_time, so it was left out", "Correct one of them")
        end = None
    for key, moment in (("start", start), ("end", end)):
        if moment is not None:
            times[key] = moment.isoformat()
    return times


def _zone(trigger: Fields) -> str:
    """Return a time zone by its name in the IANA database; Azure uses the names of Windows."""
    text = trigger.text("time_zone").strip()
    if text.upper() in ("", "UTC"):
        return ""
    from tzlocal.windows_tz import win_tz  # CLDR's table

    zone = win_tz.get(text, text)
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        trigger.lose(
            "time_zone", f"{text[:40]} is not a time zone, so it became UTC", "Write one such as Europe/Berlin"
        )
        return ""
    return zone


def _moment(trigger: Fields, key: str, zone: str) -> datetime | None:
    text = trigger.text(key)
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        trigger.lose(key, f"{text[:40]} is not a time", "Write one such as 2027-01-31T03:00:00")
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(zone or "UTC"))


def _recurrence(trigger: Fields, start: datetime | None) -> str:
    """Return the cron expression of a recurrence: at the times of its pattern, or those of its start."""
    frequency = trigger.text("frequency").lower()
    interval = trigger.whole("interval", 1, 1000) or 1
    pattern = trigger.section("schedule") if "schedule" in trigger else trigger.section("pattern")
    minutes, hours = _numbers(pattern, "minutes", 59), _numbers(pattern, "hours", 23)
    days = _numbers(pattern, "month_days", 31)
    weekdays = [
        str(DAYS.index(day))
        for key in ("week_days", "weekdays")
        for item in pattern.items(key)
        if (day := str(item).lower()) in DAYS
    ]
    pattern.close()
    minute = minutes or str(start.minute if start else 0)
    hour = hours or str(start.hour if start else 0)
    unit = _WHOLE.get(frequency)
    if interval > 1 and (unit is None or unit % interval):
        trigger.lose(
            "interval",
            f"every {interval} {frequency}s is not a cron expression, and became every {frequency}",
            "Let the job end early at times without work",
        )
        interval = 1
    step = "*" if interval == 1 else f"*/{interval}"
    match frequency:
        case "minute":
            return f"{step} * * * *"
        case "hour":
            return f"{minute} {step} * * *"
        case "day":
            return f"{minute} {hour} * * *"
        case "week":
            own = (start.isoweekday() % 7) if start else 1
            return f"{minute} {hour} * * {','.join(weekdays) or own}"
        case "month":
            return f"{minute} {hour} {days or (start.day if start else 1)} {step} *"
    raise Refused(f"has the frequency {frequency[:40] or 'nothing'}. Give minute, hour, day, week or month")


def _numbers(pattern: Fields, key: str, most: int) -> str:
    """Return whole numbers as cron writes them; others are a loss."""
    numbers = [int(item) for item in pattern.items(key) if isinstance(item, int) and 0 <= item <= most]
    if len(numbers) != len(pattern.items(key)):
        pattern.lose(key, f"has values that are not whole numbers up to {most}", "Correct them")
    return ",".join(map(str, sorted(set(numbers))))


def convert_import(context: Context, fields: Fields, document: Document, refresh: Manifest | None = None) -> None:
    """Make a Dataset of a data import; `refresh` has the times of a schedule."""
    source = fields.section("source")
    name = context.names.free("Dataset", fields.text("name") or document.file.stem)
    kind = source.text("type").lower()
    connection = source.text("connection", "connction").removeprefix("azureml:")
    spec: Manifest = {"type": "folder"}
    if kind == "database":
        query = source.text("query").strip()
        if not query:
            raise Refused("has a source without query, such as a stored procedure. Write a SELECT into query")
        spec["type"] = "table"
        secret = {"name": object_name(connection or name), "key": "url"}
        spec["source"] = {"sql": {"connectionSecretRef": secret, "query": query}}
        source.lose(
            "connection",
            f"became Secret {secret['name']}, which must have the address of a PostgreSQL database",
            "Create it with the key url, such as postgresql://USER:PASSWORD@HOST/DATABASE",
        )
    elif source.text("path"):
        path = source.text("path")
        is_file = fields.text("type").lower() == "uri_file"
        spec["type"] = "file" if is_file else "folder"
        uri = path if path.startswith("s3://") else f"s3://{object_name(connection or 'bucket')}/{path.strip('/')}"
        uri = uri.rstrip("/")
        uri = uri if is_file or re.search(r"\.[A-Za-z0-9]{1,10}$", uri) else f"{uri}/"
        if not re.fullmatch(URI_PATTERN, uri):
            raise Refused(f"has a source path that no URI can have: {path[:60]}. Rename the files")
        spec["source"] = {"uri": uri}
        source.lose(
            "connection",
            f"{connection} became the bucket of {uri}",
            "Write the bucket's name, which the platform's storage must reach",
        )
    else:
        raise Refused("has a source without query or path. Name what is imported")
    if refresh:
        spec["refresh"] = refresh
    if description := fields.text("description"):
        spec["description"] = description[:4096]
    if "path" in fields:
        fields.note("path")
    source.close()
    fields.close(LOST, (*IGNORED, "version", "mode", "auto_delete_setting"))
    context.add(document, "Dataset", name, spec)
