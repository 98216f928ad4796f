"""The chat's own page. It is whole in itself: no script, font or style comes from elsewhere."""

from __future__ import annotations

import jinja2

from ray_pipeline.chat.bot import Bot
from ray_pipeline.deploy.asgi import Response, page_response
from ray_pipeline.job import Serve


def pages(name: str, bot: Bot, settings: Serve) -> dict[str, Response]:
    """The answers to GET, by path."""
    templates = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [
                jinja2.PackageLoader("ray_pipeline.chat"),
                jinja2.PackageLoader("ray_pipeline.deploy"),
            ]
        ),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = templates.get_template("chat.html").render(
        name=name,
        title=bot.settings.title or name,
        examples=bot.settings.examples,
        version=bot.manifest.version,
        made=bot.manifest.created.partition("T")[0],
        keyed=settings.auth == "key",
        feedback=bot.settings.feedback and settings.auth == "key",
    )
    return {f"/{name}": page_response(page), f"/{name}/": page_response(page)}
