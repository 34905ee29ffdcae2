"""The command line of the embedded Kubernetes."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from . import archives, backup, build, cluster, console, down, images, packages, programs, status, target
from .console import say, step
from .errors import ClusterError
from .paths import REPOSITORY, State, cache, state_root

TEACH = """\
Kubernetes on this machine, without Docker, systemd or a registry.

  ultramarine-cluster up                    one node, ready in under 30 s (the first time it is built: minutes)
  eval "$(ultramarine-cluster env)"         kubectl and helm for it, in this shell
  ultramarine-cluster images load operator  build an image of this repository and put it into the cluster
  ultramarine-cluster images load my.tar    put your own image into the cluster; a folder with a Dockerfile is built
  ultramarine-cluster backup team-a folder  save a namespace's objects and files; `restore` is the reverse
  ultramarine-cluster status                show the components, their health and their files
  ultramarine-cluster down                  remove the cluster without a trace

  ultramarine-cluster up --tier bare --name tests   only etcd and an API server, in 5 s, beside whatever else runs

Every command may be killed and run again. Folders:
  $ULTRAMARINE_CACHE   programs and image layers, shared by all clones   (now {cache})
  $ULTRAMARINE_STATE   one folder for each running cluster, with logs/   (now {state})
"""


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(
        prog="ultramarine-cluster",
        description=TEACH.format(cache=cache(), state=state_root()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, promise: str, *, named: bool = True) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=promise, description=promise)
        if named:
            made.add_argument("--name", default="full", help="name of the cluster (default: %(default)s)")
        return made

    made = command("build", "Build the programs that are missing.", named=False)
    made.add_argument("program", nargs="*", help="names (default: all)")
    made.add_argument("--print", action="store_true", dest="folder", help="print only their folder")
    made = command("up", "Bring a cluster up, or repair it.", named=False)
    made.add_argument(
        "--tier", choices=cluster.TIERS, default="full", help="full: runs pods; bare: the API only (default: full)"
    )
    made.add_argument("--name", help="the name of its state folder (default: the tier's name)")
    made = command("down", "Remove a cluster without a trace, except the cache.")
    made.add_argument("--all", action="store_true", help="every cluster under the state folder")
    made.add_argument("--purge-cache", action="store_true", help="remove programs, images and downloads too")
    command("status", "Show the components, their health and their files.")
    command("env", 'Print variables for kubectl and helm in this shell: eval "$(ultramarine-cluster env)".')
    made = command("kubeconfig", "Print the path of the kubeconfig.")
    made.add_argument("--print", action="store_true", dest="whole", help="print its text instead")
    made = command("logs", "Print the end of the components' logs.")
    made.add_argument("component", nargs="*", help="names (default: all)")
    made.add_argument("-f", "--follow", action="store_true", help="follow them")
    made.add_argument("-n", "--lines", default="40", help="number of lines (default: %(default)s)")
    made = command(
        "install", "Build the images and install the chart, into the embedded cluster by default.", named=False
    )
    made.add_argument("--context", default="", help="a context of your kubeconfig; images go through $REGISTRY then")
    made.add_argument("--namespace", default="ultramarine", help="the release's namespace (default: %(default)s)")
    made.add_argument("--set", action="append", default=[], metavar="KEY=JSON", help="a value of the chart")
    for name, words, promise in (
        (
            "backup",
            ("team", "folder"),
            "Save a namespace: its objects with their statuses, and all its files.",
        ),
        ("restore", ("folder", "team"), "Restore a backup into a namespace; finished runs do not run again."),
    ):
        made = command(name, promise, named=False)
        for word in words:
            made.add_argument(word, metavar={"team": "NAMESPACE", "folder": "FOLDER"}[word])
        made.add_argument("--context", default="", help="a context of your kubeconfig (default: the embedded cluster)")
        made.add_argument("--namespace", default="ultramarine", help="the release's namespace (default: %(default)s)")
        if name == "backup":
            made.add_argument("--no-secrets", action="store_true", help="leave out the keys of endpoints")
    made = command("images", "Build the repository's images, push them to $REGISTRY, load or remove a cluster's.")
    made.add_argument("action", choices=("build", "load", "remove", "push", "list"))
    built = f"{', '.join(images.table())} (default: all but mlflow and the examples)"
    other = (
        "to load, also a folder with a Dockerfile, the file of an OCI or docker archive, or an image that docker,"
        " podman or buildah has"
    )
    made.add_argument("image", nargs="*", help=f"which: {built}; {other}")
    made.add_argument("--kind", metavar="CLUSTER", help="load into this kind cluster instead")
    made.add_argument("--as", dest="alias", default="", metavar="NAME", help="name of your own image for pods")
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command; return 0 if it succeeded."""
    chosen = parser().parse_args(argv)
    try:
        return _run(chosen)
    except ClusterError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to go on", file=sys.stderr)
        return 130


def _run(chosen: argparse.Namespace) -> int:
    match chosen.command:
        case "build" if chosen.folder:
            say(str(programs.folder()))
        case "build":
            with step("Debian packages") as notes:
                notes.append(packages.ensure())
            with step("programs") as notes:
                notes.append(build.ensure(tuple(chosen.program) or None))
        case "install":
            target.install(target.choose(chosen.context), chosen.namespace, *chosen.set)
        case "backup":
            where, folder = target.choose(chosen.context), Path(chosen.folder)
            backup.save(where, chosen.namespace, chosen.team, folder, secrets=not chosen.no_secrets)
        case "restore":
            backup.restore(target.choose(chosen.context), chosen.namespace, Path(chosen.folder), chosen.team)
        case "up":
            _up(chosen)
        case "down":
            _down(chosen)
        case "status":
            text, well = status.show(State(chosen.name))
            say(text)
            return 0 if well else 1
        case "env":
            say(target.embedded(cluster.find(chosen.name)).shown)
        case "kubeconfig":
            file = cluster.find(chosen.name).kubeconfig
            say(file.read_text() if chosen.whole else str(file))
        case "logs":
            files = status.log_files(State(chosen.name), chosen.component)
            sys.stdout.flush()
            os.execvp("tail", ["tail", "-n", chosen.lines, *(["-F"] if chosen.follow else []), "--", *map(str, files)])
        case "images":
            _images(chosen)
    return 0


def _up(chosen: argparse.Namespace) -> None:
    with console.total() as took:
        made = cluster.up(chosen.tier, chosen.name)
    say(f"\nThe {made.tier} cluster is ready after {console.minutes(took())}: {made.url}")
    say(f"  export KUBECONFIG={made.kubeconfig} PATH={made.kubectl.parent}:$PATH")
    say("  kubectl get pods --all-namespaces" if made.tier == "full" else "  kubectl api-resources")
    say(f"  logs: {made.logs}")


def _down(chosen: argparse.Namespace) -> None:
    names = [state.name for state in cluster.states()] if chosen.all else [chosen.name]
    if chosen.all and target.uninstall_kind():
        say("the kind cluster ultramarine: deleted")
    for name in names:
        say(f"cluster {name}:")
        down.down(State(name))
    if chosen.purge_cache:
        if others := [state.name for state in cluster.states()]:
            raise ClusterError(
                f"the cache is in use by {', '.join(others)}",
                "remove them too: ultramarine-cluster down --all --purge-cache",
            )
        down.purge_cache()
    else:
        say(f"The cache stays in {cache()}; `down --purge-cache` removes it too.")
        say(f"Debian packages stay installed: those of {packages.LIST.relative_to(REPOSITORY)} that were missing.")


def _images(chosen: argparse.Namespace) -> None:
    if chosen.alias and (chosen.action != "load" or len(chosen.image) != 1 or chosen.image[0] in images.table()):
        raise ClusterError("--as needs exactly one file, folder or image from elsewhere", "name one with it")
    if chosen.action == "push":
        target.push_images(chosen.image or target.OWN_IMAGES)
        return
    if chosen.action == "remove":
        if not chosen.image or chosen.kind:
            raise ClusterError("images remove needs names of images in the embedded cluster", "name at least one")
        for name in chosen.image:
            say(f"removed {archives.remove(name, State(chosen.name))}")
        return
    for name in chosen.image or images.present():
        if chosen.action == "list":
            ref = images.reference(name)
            where = f"  {images.archive(ref)}" if images.archive(ref).exists() else ""
            say(f"{ref}  {'built' if images.built(ref) else 'not built'}{where}")
            continue
        if chosen.action == "load" and name not in images.table():
            with step(f"image {name}") as notes:
                loaded = archives.load(name, State(chosen.name), kind=chosen.kind, name=chosen.alias)
                notes.append(f"loaded; pods find it as {loaded.removeprefix('docker.io/').removeprefix('library/')}")
            continue
        with step(f"image {name}") as notes:
            ref = images.build(name) if chosen.kind else images.build_archive(name)
            notes.append(ref)
            if chosen.action == "load":
                needed = images.load(ref, State(chosen.name), kind=chosen.kind)
                notes.append("loaded" if needed else "already loaded")


if __name__ == "__main__":
    sys.exit(main())
