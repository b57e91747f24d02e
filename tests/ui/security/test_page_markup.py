"""Nothing from a user is markup: names of files, words, notes and patterns, seen in a real browser."""

import ast
from pathlib import Path

import gradio as gr
import pytest

from pyramid.ui.markup import failure, say, warn

UI = Path(__file__).parents[3] / "pyramid" / "ui"
EVIL = "<img src=x onerror=\"document.title='caught'\"><b id=evil>bold</b>"
NAMED = "<img src=x onerror=document.title='caught'><b id=evil>.png"


def test_toasts_are_made_in_one_place():
    """Others than `markup` would have to escape by themselves; what programs are told is no markup."""
    for path in UI.rglob("*.py"):
        if path.name in ("markup.py", "api_shared.py", "errors.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "gr":
                assert node.attr not in ("Info", "Warning", "Success", "Markdown"), (
                    f"{path.name}:{node.lineno}"
                )
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "gr.Error":
                raise AssertionError(f"{path.name}:{node.lineno}")


@pytest.mark.browser
def test_toasts_are_text(browser):
    def fail():
        raise failure(EVIL, EVIL)

    with gr.Blocks(analytics_enabled=False) as blocks:
        gr.Button("say").click(lambda: say(EVIL, EVIL))
        gr.Button("warn").click(lambda: warn(EVIL, EVIL))
        gr.Button("fail").click(fail)
    _, address, _ = blocks.launch(prevent_thread_lock=True, quiet=True)
    try:
        page = browser.new_page()
        page.goto(address)
        for number, name in enumerate(("say", "warn", "fail"), 1):
            page.get_by_role("button", name=name, exact=True).click()
            page.wait_for_function(
                f"document.querySelectorAll('[data-testid=toast-text]').length == {number}"
            )
        assert page.locator("[data-testid=toast-text]").first.inner_text() == EVIL
        assert page.locator("#evil, img[src=x]").count() == 0 and page.title() != "caught"
        page.close()
    finally:
        blocks.close(verbose=False)


@pytest.mark.browser
def test_what_users_bring_is_text(browser, public):
    context = browser.new_context()
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.goto(public.url)
    page.wait_for_selector("#verdict .ready")
    page.get_by_label("Prompt", exact=True).fill(EVIL)
    for field in page.locator("#pyramid input[type=number]").all():
        if field.is_visible():
            field.fill("1")
    page.locator("#mode label", has_text="Still").click()
    page.click("#generate")
    page.wait_for_selector(".card")
    page.locator(".card .media").first.click()
    page.wait_for_selector("dialog .detail")
    page.locator("dialog [data-action=close]").click()
    page.locator("#restore input[type=file]").set_input_files(
        {"name": NAMED, "mimeType": "image/png", "buffer": b"no picture"}
    )
    page.wait_for_selector("#results-notes .failed")
    assert page.locator("#evil, img[src=x]").count() == 0 and page.title() != "caught"
    context.close()
