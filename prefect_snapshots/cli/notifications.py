"""`prefect-snapshots notifications`: messages about failed and late backups, damage and waiting restores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from getpass import getpass
from typing import Any, Literal
from uuid import UUID

from ..errors import InvalidArgument
from .output import Answer, columns, table
from .session import SessionArgument, at_terminal

Kind = Literal["slack", "teams", "mail", "webhook"]

BLOCK = "prefect-snapshots-alerts"
"""The default name of the block with the address."""
_PREFIX = "prefect-snapshots: "
"""The beginning of the names of the automations, which no others have."""
_DAY = 86400

_SECRETS: Mapping[Kind, str] = {
    "slack": "URL of the incoming webhook of Slack",
    "teams": "URL of the workflow of Microsoft Teams",
    "mail": "API key of SendGrid",
    "webhook": "URL to call",
}

_SLUGS: Mapping[Kind, str] = {
    "slack": "slack-webhook",
    "teams": "ms-teams-webhook",
    "mail": "sendgrid-email",
    "webhook": "webhook",
}

_AUTOMATIONS: Mapping[str, tuple[str, tuple[str, ...], int]] = {
    "damaged": (
        "A check found damage, a copy is incomplete, or a drill found that restored data is not identical.",
        ("repository.damaged", "repository.not-copied", "backup.drill-failed"),
        0,
    ),
    "no backup": (
        "A backup failed or is overdue, or no recent one is proven. At most one message a day for each name.",
        ("backup.failed", "backup.overdue", "backup.proof-overdue"),
        _DAY,
    ),
    "a restore waits": ("A restore waits for a person on the page of its flow run.", ("restore.waiting",), 0),
    "growing too fast": (
        "More was written than the limit of watch-repository allows. At most one message a day for each repository.",
        ("repository.growing",),
        _DAY,
    ),
}
"""For each automation what it is about, its events, and how many seconds it is silent after a message."""

_SEND = "send-notification"
_NOBODY_LOOKED = "nobody looked"
_WATCHED_FLOWS = ["check-repository", "prune-repository", "restore-drill", "watch-repository"]

_TITLE = "{{ event.event }}: {{ event.resource.name }}"
_FACTS = "{% for key, value in event.payload.items() %}{{ key }}: {{ value }}\n{% endfor %}"
_RUN_TITLE = "{{ flow.name }} {{ flow_run.state.name }}: {{ flow_run.state.message }}"
_LINK = "{% if flow_run %}{{ flow_run | ui_url }}{% endif %}"


def notifications(
    kind: Kind | None = None,
    /,
    *,
    block: str | None = None,
    block_name: str = BLOCK,
    secret_command: str | None = None,
    secret_file: str | None = None,
    sender: str | None = None,
    to: list[str] | None = None,
    session: SessionArgument,
) -> Answer:
    """Send messages when a backup fails or is late, data is damaged, or a restore waits. Creates Prefect automations.

    It saves a block with the address, and creates five automations on the Prefect server of the active profile.
    Automations of an earlier call are replaced.

    Args:
        kind: slack, teams, mail (by SendGrid) or webhook, which is called with {"text": "..."}.
        block: Use this notification block instead, such as pager-duty-webhook/ops.
        block_name: The name of the block that is saved. Default: prefect-snapshots-alerts.
        secret_command: A shell command that prints the URL or API key. Default: you are asked for it.
        secret_file: A file with the URL or API key.
        sender: The address that mail comes from.
        to: An address that mail is sent to. Repeat it for several.
    """
    if (kind is None) == (block is None):
        raise InvalidArgument("Pass slack, teams, mail or webhook, or a block with --block.")
    if kind == "mail" and not (sender and to):
        raise InvalidArgument("Mail needs --sender and --to.")
    from ..integration.deployed import require_prefect

    require_prefect()
    if block is None:
        assert kind is not None
        block_id = _save(kind, block_name, _secret(_SECRETS[kind], secret_command, secret_file), sender, to or [])
        block = f"{_SLUGS[kind]}/{block_name}"
    else:
        block_id = _found(block)
    created = _create(block_id, block.partition("/")[0])
    document = {"block": block, "automations": created}
    return Answer(document, _view_created, f"They are sent by the block {block}.", told=True)


def _secret(what: str, command: str | None, file: str | None) -> str:
    from ..repository.passwords import password_from_command, password_from_file

    if command and file:
        raise InvalidArgument("Pass only one of --secret-command and --secret-file.")
    if command:
        return password_from_command(command)
    if file:
        return password_from_file(file)
    if not at_terminal():
        raise InvalidArgument(f"There is no terminal to type the {what} on. Pass --secret-command or --secret-file.")
    typed = getpass(f"{what}: ")
    if not typed:
        raise InvalidArgument("You typed nothing. Nothing was changed.")
    return typed


def _save(kind: Kind, name: str, secret: str, sender: str | None, to: Sequence[str]) -> UUID:
    from prefect.blocks.notifications import MicrosoftTeamsWebhook, SendgridEmail, SlackWebhook
    from prefect.blocks.webhook import Webhook
    from pydantic import SecretStr, ValidationError

    invalid = f"This is not a valid {_SECRETS[kind]}. Nothing was changed."
    if kind != "mail" and not secret.startswith(("https://", "http://")):
        raise InvalidArgument(invalid)
    try:
        block: Any = (
            SlackWebhook(url=SecretStr(secret))
            if kind == "slack"
            else MicrosoftTeamsWebhook(url=SecretStr(secret))
            if kind == "teams"
            else SendgridEmail(api_key=SecretStr(secret), sender_email=sender or "", to_emails=[*to])
            if kind == "mail"
            else Webhook(url=SecretStr(secret))
        )
    except (ValidationError, ValueError):
        raise InvalidArgument(invalid) from None
    return UUID(str(block.save(name, overwrite=True, _sync=True)))


def _found(block: str) -> UUID:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    slug, _, name = block.partition("/")
    with get_client(sync_client=True) as client:
        try:
            return client.read_block_document_by_name(name, slug, include_secrets=False).id
        except ObjectNotFound:
            raise InvalidArgument(f"There is no block {block!r}. Save it first, or check the name.") from None


def _create(block_id: UUID, slug: str) -> list[dict[str, Any]]:
    """Create the automations, and delete those of an earlier call."""
    from prefect.client.orchestration import get_client
    from prefect.events.schemas.automations import AutomationCore

    created = []
    with get_client(sync_client=True) as client:
        for each in _automations(block_id, slug):
            earlier = client.read_automations_by_name(each["name"])
            client.create_automation(AutomationCore.model_validate(each))
            for automation in earlier:
                client.delete_automation(automation.id)
            created.append({"name": each["name"], "description": each["description"]})
    return created


def _automations(block_id: UUID, slug: str) -> Iterator[dict[str, Any]]:
    def action(title: str, body: str) -> dict[str, Any]:
        if slug == _SLUGS["mail"]:
            return {"type": _SEND, "block_document_id": block_id, "subject": _as_line(title), "body": _as_html(body)}
        title, body = _as_line(_as_plain(title)), _as_plain(body)
        if slug == _SLUGS["webhook"]:
            return {"type": "call-webhook", "block_document_id": block_id, "payload": _as_json(f"{title}\n{body}")}
        return {"type": _SEND, "block_document_id": block_id, "subject": title, "body": body}

    for name, (about, events, silence) in _AUTOMATIONS.items():
        trigger: dict[str, Any] = {"expect": [f"prefect-snapshots.{event}" for event in events]}
        if silence:
            trigger |= {"for_each": ["prefect.resource.id"], "within": silence}
        yield _automation(name, about, trigger, action(_TITLE, f"{_FACTS}{_LINK}"))
    trigger = {
        "expect": ["prefect.flow-run.Failed", "prefect.flow-run.Crashed"],
        "match_related": {"prefect.resource.role": "flow", "prefect.resource.name": _WATCHED_FLOWS},
    }
    about = "A check, prune, drill or watch failed or crashed, for whatever reason."
    yield _automation(_NOBODY_LOOKED, about, trigger, action(_RUN_TITLE, _LINK))


def _automation(name: str, about: str, trigger: dict[str, Any], action: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": f"{_PREFIX}{name}",
        "description": about,
        "trigger": {"type": "event", "posture": "Reactive", "threshold": 1, **trigger},
        "actions": [action],
    }


def _as_html(text: str) -> str:
    """Return a template of HTML with the text that a template gives: a mail is HTML, and names may come from others."""
    return "<pre>{% filter escape %}" + text + "{% endfilter %}</pre>"


def _as_plain(text: str) -> str:
    """Return a template of a chat message with the text that a template gives, without links, images and mentions.

    Slack, Teams, Discord and the like understand different marks, and what sends to them, Apprise, escapes `<!channel>`
    and then undoes that. So characters that all of these marks need are replaced by ones that look like them.
    """
    marks = {"<": "\u2039", ">": "\u203a", "](": "] (", "@": "@\u2060"}
    filters = " | ".join(f"replace({mark!r}, {other!r})" for mark, other in marks.items())
    return f"{{% filter {filters} %}}{text}{{% endfilter %}}"


def _as_line(text: str) -> str:
    """Return a template of one line with the text that a template gives: services refuse others as a subject."""
    return "{% filter replace('\\n', ' ') %}" + text + "{% endfilter %}"


def _as_json(text: str) -> str:
    """Return a template of a JSON object with the text that a template gives."""
    return "{% set text %}" + text + '{% endset %}{"text": {{ text | tojson }}}'


def _view_created(document: Mapping[str, Any]) -> Iterator[str]:
    rows = [(each["name"], each["description"]) for each in document["automations"]]
    yield from table(columns("automation", "sends a message if↓"), rows)
