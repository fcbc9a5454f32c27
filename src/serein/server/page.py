"""The page: record or upload, and see what is heard; it loads nothing from elsewhere and tells nobody."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.responses import RedirectResponse

from serein.audio import Upload
from serein.errors import AudioError
from serein.inference.segments import Timeline
from serein.inference.streams import NoSpeechError
from serein.server import page_parts as parts
from serein.server.middleware import Keys
from serein.server.problems import HTTPProblem, in_words
from serein.server.routes import named
from serein.server.schemas import PredictionResponse, prediction_response
from serein.server.service import Service

if TYPE_CHECKING:
    import gradio


PATH = "/page"
_CSS = Path(__file__).with_name("page.css")
_KEPT_S = 600  # how long an upload can be played; then it is deleted
_VISITOR = "visitors of the page"  # they share one client's places
_FONTS = ("system-ui", "sans-serif")
_EMPTY = parts.note("Record or upload speech; it is heard on this server and deleted after ten minutes.")


def mount(app: FastAPI, service: Service, keys: Keys | None) -> None:
    """Put the page below `/page`, and send there who comes to `/`.

    Args:
        keys: Whoever opens the page must give one as password.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when the package is imported
    folder = tempfile.mkdtemp(prefix="serein-page-")
    os.environ["GRADIO_TEMP_DIR"] = folder
    import gradio

    blocks = _blocks(service, folder)
    blocks.has_launched = True  # else Gradio does not check what paths clients name
    blocks.queue(max_size=service.limits.at_once, default_concurrency_limit=4)
    gradio.mount_gradio_app(
        app,
        blocks,
        PATH,
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        max_file_size=service.limits.upload_bytes,
        blocked_paths=[str(Path.cwd())],
        theme=gradio.themes.Default(font=_FONTS, font_mono=("ui-monospace", "monospace")),
        css=_CSS.read_text(encoding="utf-8"),
        auth=None if keys is None else lambda _, key: keys.accepts(key),
        auth_message="Any name; the password is a key of this service.",
    )
    app.state.on_ending.append(lambda: _let_go(app))
    app.state.on_ended.append(lambda: shutil.rmtree(folder, ignore_errors=True))

    @app.get("/", include_in_schema=False)
    async def page() -> RedirectResponse:
        return RedirectResponse(f"{PATH}/")


def _blocks(service: Service, folder: str) -> gradio.Blocks:
    import gradio

    blocks: gradio.Blocks = gradio.Blocks(title="serein", analytics_enabled=False, delete_cache=(60, _KEPT_S))
    with blocks:
        gradio.HTML("<h1>serein</h1><p>Which emotions are heard in speech, and when.</p>")
        recording = gradio.Audio(
            sources=["upload", "microphone"],
            type="filepath",
            label="Recording",
            buttons=[],
            elem_id="recording",
        )
        _takes_uploads_alone(recording, folder)
        button = gradio.Button("Hear it", variant="primary", elem_id="hear")
        said = gradio.HTML(_EMPTY, elem_id="said", apply_default_css=False)

        async def hear(path: str | None) -> str:
            return await answered(service, path)

        for event in (recording.upload, recording.stop_recording, button.click):
            event(hear, recording, said, api_visibility="private", show_progress="full")
        recording.clear(lambda: _EMPTY, None, said, api_visibility="private")
    return blocks


async def answered(service: Service, path: str | None) -> str:
    """Return what the page shows of a recording that Gradio took in.

    Args:
        path: Where Gradio keeps it, below its folder.
    """
    if path is None:
        return parts.complaint("There is no recording yet: record one, or upload a file.")
    try:
        with service.limiter.request(_VISITOR), service.limiter.memory() as take:
            take(Path(path).stat().st_size)
            upload = Upload(Path(path).read_bytes(), named(path))
            return await _shown(service, upload)
    except AudioError as error:
        return parts.complaint(in_words(error))
    except HTTPProblem as problem:
        return parts.complaint(str(problem.detail))


async def _shown(service: Service, upload: Upload) -> str:
    note = ""
    try:
        heard = await service.predict(upload, "always")
    except NoSpeechError:
        heard = await service.predict(upload, "never")
        note = parts.note("No speech was found, so all of it was heard at once.")
    return await service.run_in_thread(lambda: note + _drawn(heard, prediction_response(heard, service.neighbours)))


def _drawn(heard: object, reply: PredictionResponse) -> str:
    drawing = parts.picture(heard, reply.file) if isinstance(heard, Timeline) else ""
    columns = parts.probabilities(reply) + parts.segments(reply) + parts.nearest(reply)
    return drawing + columns + parts.downloads(reply)


def _takes_uploads_alone(component: gradio.Audio, folder: str) -> None:
    """Let a component read what Gradio itself put into its folder, and nothing else that a client names.

    Of an app that is mounted, not launched, Gradio takes any path of the server, and fetches any address.
    """
    import gradio

    move = component.async_move_resource_to_block_cache

    async def moved(path: str | Path | None) -> str | None:
        if path is not None and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
            raise gradio.Error("This is no upload: upload the recording.", print_exception=False)
        return await move(path)

    # A subclass would do, but Gradio writes a stub file beside the source of each.
    setattr(component, move.__name__, moved)


def _let_go(app: FastAPI) -> None:
    """End the connections by which browsers know that the page is there; they would hold the server."""
    for route in app.routes:
        if getattr(route, "path", None) == PATH and (stop := getattr(route.app, "stop_event", None)):  # type: ignore[attr-defined]
            stop.set()
