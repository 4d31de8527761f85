"""`ironyard platform mirror`: every chart and image into one registry, for sites without internet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli import output
from api.cli.exits import Exit, Failure
from api.cli.options import Json

if TYPE_CHECKING:
    from api.cli.platform_copying import Carrier, Helm
    from stacks.mirror import Copy, Release

PRESENT, COPIED, WOULD, FAILED = "present", "copied", "would copy", "failed"


@dataclass(frozen=True)
class Item:
    """One chart or image, and what became of it. `digest` is the target's, where it is known."""

    kind: str
    source: str
    target: str
    state: str
    digest: str | None = None
    reason: str | None = None

    def document(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if value is not None}


def mirror(
    to: Annotated[
        str, typer.Option("--to", metavar="REGISTRY", help="Host, and a folder or Harbor project below it.")
    ],
    stack: Annotated[
        str, typer.Option("--stack", metavar="NAME", help="What this stack's file switches on is copied.")
    ] = "local",
    everything: Annotated[
        bool, typer.Option("--all", help="Pinned charts that the stack leaves out, too.")
    ] = False,
    list_only: Annotated[
        bool, typer.Option("--list", help="Print source and target, one pair a line; copy nothing.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is missing there; copy nothing.")
    ] = False,
    charts_from: Annotated[
        str | None, typer.Option(metavar="OCI", help="Take charts from this oci:// folder instead.")
    ] = None,
    images_from: Annotated[
        str | None, typer.Option(metavar="REGISTRY", help="Take images from this mirror instead.")
    ] = None,
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="The registry speaks HTTP; one on this machine always may.")
    ] = False,
    project: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The Pulumi project; absent: stacks/platform.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Copy every pinned chart and every image into a registry; run again to go on where it stopped."""
    from api.cli.local import settings
    from api.cli.platform_config import sections
    from api.cli.platform_copying import Helm, carrier
    from api.cli.platform_target import project_folder, stack_settings

    to = to.removeprefix("oci://").rstrip("/")
    plain = [to.partition("/")[0]] if plain_http else []
    helm = Helm(settings().data_dir / "mirror" / "charts", plain)
    wanted = Wanted(helm, to, charts_from, images_from, quiet=as_json)
    folder = project_folder(project)
    wanted.find(folder, sections(stack_settings(folder, stack).get("config") or {}), everything=everything)
    if list_only:
        _print_list(wanted, as_json=as_json)
        return
    found = [*_charts(wanted, helm, dry_run=dry_run), *_images(wanted, carrier(plain), dry_run=dry_run)]
    _end(wanted, found, as_json=as_json)


class Wanted:
    """The charts of a stack, and the images that they and the stack name."""

    def __init__(
        self, helm: Helm, to: str, charts_from: str | None, images_from: str | None, *, quiet: bool
    ) -> None:
        self.helm, self.to = helm, to
        self.charts_from, self.images_from = charts_from, images_from
        self.say = (lambda _sentence: None) if quiet else output.say
        self.releases: list[Release] = []
        self.images: list[Copy] = []
        self.strays: list[str] = []

    @property
    def charts(self) -> str:
        """The OCI folder for charts."""
        return f"oci://{self.to}/charts"

    def repository(self, release: Release) -> str:
        return self.charts_from.rstrip("/") if self.charts_from else release.repository

    def find(self, project: Path, config: Mapping[str, Any], *, everything: bool) -> None:
        """Raises Failure when the configuration is refused, or a chart cannot be fetched or rendered.

        Encrypted values of the configuration stay closed: no image depends on one.
        """
        import pulumi

        from stacks import mirror as program

        try:
            plain, moved = (
                program.registered(program.mirrored(config, registry), program=project / "__main__.py")
                for registry in (None, self.to)
            )
        except pulumi.RunError as refused:
            raise Failure(str(refused), Exit.INVALID) from refused
        self.releases = program.releases(plain)
        more = program.left_out(self.releases) if everything else []
        self.releases += more
        self.say(f"{len(self.releases)} charts; looking for their images.")
        images = program.images(plain, moved, self.to, self._render, more)
        self.images, self.strays = [self._from(one) for one in images.copies], list(images.strays)

    def _render(self, release: Release) -> list[dict[str, Any]]:
        from api.cli.platform_copying import CopyFailed

        try:
            archive = self.helm.pull(self.repository(release), release.chart, release.version)
            return self.helm.template(archive, release.name, release.namespace, release.values)
        except CopyFailed as error:
            where = f"{self.repository(release)}/{release.chart} {release.version}"
            raise Failure(f"The chart {where} cannot be read: {error}") from error

    def _from(self, one: Copy) -> Copy:
        from stacks.mirror import Copy

        return (
            Copy(self.images_from + one.target.removeprefix(self.to), one.target) if self.images_from else one
        )


def _charts(wanted: Wanted, helm: Helm, *, dry_run: bool) -> Iterator[Item]:
    from api.cli.platform_copying import CopyFailed

    for number, release in enumerate(wanted.releases, 1):
        archive = helm.pull(wanted.repository(release), release.chart, release.version)
        names = (
            f"{wanted.repository(release)}/{release.chart}:{release.version}",
            f"{wanted.charts}/{release.chart}:{release.version}",
        )
        ours = archive.read_bytes()
        state, reason = PRESENT, None
        try:
            if helm.stored(wanted.charts, release.chart, release.version) != ours:
                state = WOULD if dry_run else COPIED
                if not dry_run:
                    helm.push(archive, wanted.charts)
                    if helm.stored(wanted.charts, release.chart, release.version) != ours:
                        raise CopyFailed("what the registry gives back is not what was stored")  # noqa: TRY301
        except CopyFailed as error:
            state, reason = FAILED, str(error)
        item = Item("chart", *names, state, f"sha256:{hashlib.sha256(ours).hexdigest()}", reason)
        _tell(wanted, item, number, len(wanted.releases))
        yield item


def _images(wanted: Wanted, carrier: Carrier, *, dry_run: bool) -> Iterator[Item]:
    wanted.say(f"{len(wanted.images)} images, copied by {carrier.name}.")
    for number, one in enumerate(wanted.images, 1):
        item = _image(one, carrier, dry_run=dry_run)
        _tell(wanted, item, number, len(wanted.images))
        yield item


def _image(one: Copy, carrier: Carrier, *, dry_run: bool) -> Item:
    """An image that is there is left alone when it is the source's; a tag that was moved is copied again."""
    from api.cli.platform_copying import CopyFailed

    before = carrier.digest(one.target)
    source = carrier.digest(one.source)
    if before is not None and (before == source or (source is None or carrier.name == "docker")):
        return Item("image", one.source, one.target, PRESENT, before)
    if dry_run:
        return Item("image", one.source, one.target, WOULD, source)
    try:
        carrier.copy(one.source, one.target)
    except CopyFailed as error:
        return Item("image", one.source, one.target, FAILED, reason=str(error))
    after = carrier.digest(one.target)
    if after is None or (after != source and carrier.name != "docker"):
        reason = f"the registry has {after or 'nothing'}, the source has {source or 'nothing'}"
        return Item("image", one.source, one.target, FAILED, after, reason)
    return Item("image", one.source, one.target, COPIED, after)


def _tell(wanted: Wanted, item: Item, number: int, total: int) -> None:
    why = f": {item.reason}" if item.reason else ""
    wanted.say(f"[{number}/{total}] {item.state} {item.target}{why}")


def _print_list(wanted: Wanted, *, as_json: bool) -> None:
    charts = [
        (f"{wanted.repository(one)}/{one.chart}:{one.version}", f"{wanted.charts}/{one.chart}:{one.version}")
        for one in wanted.releases
    ]
    images = [(one.source, one.target) for one in wanted.images]
    if as_json:
        pairs = {"charts": charts, "images": images}
        rows = {k: [{"source": s, "target": t} for s, t in v] for k, v in pairs.items()}
        output.emit({"to": wanted.to, **rows, "strays": wanted.strays})
    else:
        for source, target in (*charts, *images):
            print(f"{source} {target}")
        _tell_strays(wanted)


def _tell_strays(wanted: Wanted) -> None:
    for stray in wanted.strays:
        output.say(f"Not taken from the mirror by the stack: {stray}")


def _end(wanted: Wanted, found: list[Item], *, as_json: bool) -> None:
    failed = [item for item in found if item.state == FAILED]
    if as_json:
        rows = {f"{kind}s": [i.document() for i in found if i.kind == kind] for kind in ("chart", "image")}
        output.emit({"to": wanted.to, **rows, "strays": wanted.strays})
    else:
        _tell_strays(wanted)
        counts = {
            state: sum(item.state == state for item in found) for state in (COPIED, PRESENT, WOULD, FAILED)
        }
        output.say(", ".join(f"{count} {state}" for state, count in counts.items() if count) + ".")
    if failed or wanted.strays:
        raise Failure(
            f"{len(failed)} could not be copied, {len(wanted.strays)} are not taken from the mirror."
        )
    if not as_json:
        output.say("The stack takes everything from there with:")
        print(f"pulumi config set --path ironyard-platform:cluster.charts {wanted.charts}")
        print(f"pulumi config set --path ironyard-platform:cluster.images {wanted.to}")
