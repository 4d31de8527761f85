"""`allocate` and `offers`: asking for GPUs."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

import typer

from api.cli import output
from api.cli.client import connect
from api.cli.exits import Exit, Failure
from api.cli.ledger import For, Until, Workspace, approver, details, one_end
from api.cli.options import Json, Labels, duration, moment, pairs

GROUP = re.compile(r"(?P<gpus>[1-9][0-9]{0,3})(?:x(?P<model>.+))?")
FLAGS = ("same-host", "nvlink", "exclusive-host")
WHEN = {
    "capacity": "when such GPUs come free",
    "turn": "when those before it have theirs",
    "quota": "when the quota has room for it",
    "budget": "when the budget has room for it",
}
OFFER_COLUMNS = ("score", "source", "model", "region", "GPUs", "where", "price an hour", "from")

Model = Annotated[str | None, typer.Option(help="Exactly as `ironyard gpus` shows it.")]
Memory = Annotated[int | None, typer.Option(min=1, metavar="MIB", help="Of each GPU, at least.")]
SameHost = Annotated[bool, typer.Option("--same-host", help="All on one host.")]
NvLink = Annotated[bool, typer.Option("--nvlink", help="All in one NVLink domain.")]


def allocate(  # noqa: PLR0917
    gpus: Annotated[int | None, typer.Option("--gpus", "-g", min=1, help="How many, all or none.")] = None,
    workspace: Workspace = "default",
    model: Model = None,
    memory: Memory = None,
    region: Annotated[str | None, typer.Option()] = None,
    labels: Labels = None,
    same_host: SameHost = False,
    nvlink: NvLink = False,
    exclusive_host: Annotated[bool, typer.Option("--exclusive-host", help="One whole host.")] = False,
    mig: Annotated[
        str | None, typer.Option(metavar="PROFILE", help="GPUs that can be cut so, such as 1g.10gb.")
    ] = None,
    groups: Annotated[
        list[str] | None,
        typer.Option(
            "--group",
            metavar="NxMODEL[,…]",
            help="In place of the above, may be repeated: such as '8xNVIDIA H200,same-host'; further nvlink, "
            "exclusive-host, region=NAME, memory=MIB, mig=PROFILE and label.KEY=VALUE.",
        ),
    ] = None,
    separate_hosts: Annotated[
        bool, typer.Option("--separate-hosts", help="No two groups share a host.")
    ] = False,
    spread: Annotated[
        bool, typer.Option("--spread", help="On many hosts, in place of filling those in use.")
    ] = False,
    offer: Annotated[
        str | None, typer.Option(metavar="ID", help="Take what `ironyard offers` has told.")
    ] = None,
    begin: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="Reserve for then; UTC where no zone is given."),
    ] = None,
    lasts: For = None,
    until: Until = None,
    wait: Annotated[bool, typer.Option("--wait", help="Queue for what is not free now.")] = False,
    priority: Annotated[
        int, typer.Option(min=-100, max=100, help="In the queue; above 0 needs admin or owner.")
    ] = 0,
    preemptible: Annotated[
        bool, typer.Option("--preemptible", help="May be ended, after a notice, for a claim that is not.")
    ] = False,
    purpose: Annotated[str | None, typer.Option(help="What for; whoever approves reads it.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would lead to, and hold nothing.")
    ] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key gives the same allocation; absent: a new one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Hold GPUs for a time: all that were asked for, or none."""
    one_end(lasts, until, needed=False)
    own = {
        "gpus": gpus,
        "model": model,
        "memory_mib": memory,
        "region": region,
        "labels": pairs(labels),
        "same_host": same_host,
        "nvlink": nvlink,
        "exclusive_host": exclusive_host,
        "mig_profile": mig,
    }
    _one_way(own, groups, offer)
    asked = own | {
        "workspace": workspace,
        "groups": [group(text) for text in groups or []],
        "separate_hosts": separate_hosts,
        "placement": "spread" if spread else None,
        "offer": offer,
        "not_before": moment(begin).isoformat() if begin else None,
        "duration_seconds": _seconds(lasts),
        "expires_at": moment(until).isoformat() if until else None,
        "wait": wait,
        "priority": priority,
        "preemptible": preemptible,
        "purpose": purpose,
    }
    body = {name: value for name, value in asked.items() if value}
    with connect() as client:
        found = client.post("/allocations", body, key=idempotency_key, dry_run=dry_run or None)
    if as_json:
        output.emit(found)
        return
    details(found)
    _reasons(found)
    for warning in found["warnings"]:
        output.say(warning)
    print(f"\n{_next(found)}")


def _next(found: Any) -> str:
    """What happens now, and what one may do."""
    state, known = found["state"], found["id"]
    if found["dry_run"]:
        return "Nothing is held: this was a dry run."
    if state == "active":
        return f"Give them back: ironyard release {known}"
    if state == "reserved":
        begins = output.moment(found["not_before"])
        return (
            f"They are held for you from {begins} on; ironyard notices tells if they are late.\n"
            f"Which GPUs: ironyard reservations --allocation {known}\n"
            f"Give them up: ironyard release {known}"
        )
    return f"{_waits(found)}\nWithdraw it: ironyard release {known}"


def _waits(found: Any) -> str:
    why = found["why"] or {}
    if found["state"] == "requested":
        who = approver(found)
        return f"Nothing is held before {who} approves it; ironyard notices tells what was decided."
    when = WHEN.get(why.get("waits_for", ""), "when it can be")
    expected = f", by the known ends at {output.moment(why['enough_at'])}" if why.get("enough_at") else ""
    return (
        f"It is number {why.get('position', 1)} in the queue and is granted {when}{expected}: ironyard queue"
    )


def _one_way(own: dict[str, Any], groups: list[str] | None, offer: str | None) -> None:
    ways = [bool(own["gpus"]), bool(groups), bool(offer)]
    if sum(ways) != 1:
        raise Failure("Give exactly one of --gpus, --group and --offer.", Exit.USAGE)
    if not own["gpus"] and any(own.values()):
        raise Failure("With --group and --offer, leave out what describes the GPUs of --gpus.", Exit.USAGE)


def group(text: str) -> dict[str, Any]:
    """`8xNVIDIA H200,same-host,region=north` as the API takes it."""
    first, *more = (part.strip() for part in text.split(","))
    found = GROUP.fullmatch(first)
    if found is None:
        raise Failure(
            f"{text!r} does not begin with a number of GPUs, as in '8xNVIDIA H200' or '8'.", Exit.USAGE
        )
    made: dict[str, Any] = {"gpus": int(found["gpus"])}
    if found["model"]:
        made["model"] = found["model"].strip()
    for part in more:
        name, equals, value = part.partition("=")
        if name in FLAGS and not equals:
            made[name.replace("-", "_")] = True
        elif name == "memory" and value.isdigit():
            made["memory_mib"] = int(value)
        elif name == "region" and value:
            made["region"] = value
        elif name == "mig" and value:
            made["mig_profile"] = value
        elif name.startswith("label.") and equals:
            made.setdefault("labels", {})[name.removeprefix("label.")] = value
        else:
            raise Failure(f"{part!r} in {text!r} is not known; see ironyard allocate --help.", Exit.USAGE)
    return made


def _seconds(lasts: str | None) -> int | None:
    long: timedelta | None = duration(lasts) if lasts else None
    return int(long.total_seconds()) if long else None


def _reasons(found: Any) -> None:
    hosts = (found["why"] or {}).get("hosts") or []
    if hosts:
        print()
    for one in hosts:
        print(f"{one['host']}: {one['gpus']} GPUs, because {one['because']}.")


def offers(
    gpus: Annotated[int, typer.Option("--gpus", "-g", min=1)] = 1,
    model: Model = None,
    memory: Memory = None,
    region: Annotated[str | None, typer.Option(help="Preferred; offers elsewhere rank lower.")] = None,
    same_host: SameHost = False,
    nvlink: NvLink = False,
    lasts: For = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show each offer's factors.")] = False,
    best: Annotated[
        bool, typer.Option("--best", help="Print only the id of the best, for `allocate --offer`.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Rank what could be lent: price, fit, locality, health and availability."""
    query = {
        "gpus": gpus,
        "model": model,
        "memory_mib": memory,
        "region": region,
        "same_host": same_host or None,
        "nvlink": nvlink or None,
        "duration_seconds": _seconds(lasts),
    }
    with connect() as client:
        found = client.get("/offers", **query)["items"]
    if best:
        if not found:
            raise Failure("There is no such offer.", Exit.NOT_FOUND)
        print(found[0]["id"])
        return
    output.show(found, OFFER_COLUMNS, (_offer_row(one) for one in found), as_json=as_json)
    if explain and not as_json:
        _explain(found)


def _offer_row(one: Any) -> tuple[Any, ...]:
    where = "NVLink" if one["nvlink"] else "one host" if one["same_host"] else "any hosts"
    price = f"{one['price_per_hour']} {one['currency']}" if one["price_per_hour"] else None
    since = "now" if one["available"] else output.moment(one["available_at"])
    names = ("source", "model", "region", "gpus")
    return (f"{one['score']:.2f}", *(one[name] for name in names), where, price, since)


def _explain(found: list[Any]) -> None:
    for number, one in enumerate(found, 1):
        print(f"\n{number}. {one['model']} in {one['region']}, score {one['score']:.2f}")
        for factor in one["factors"]:
            told = f"{factor['value']:.2f} of weight {factor['weight']}. {factor['because']}"
            print(f"   {factor['name']}: {told}")
