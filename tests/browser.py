"""Small tools for tests of a page: the browser of this machine, what a person does in it, what is asked of a page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

EDGE = r"C:\Program Files (x86)\Microsoft\Edge\Application"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("msedge", path=EDGE)
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",  # a camera
    "--use-fake-ui-for-media-stream",
)
NAME = "Gehäuse 1.jpg"  # of every file that is brought

# All of these are functions of JavaScript, without arguments.

# The controls and cells that reach over the right edge of the screen, or whose text does over theirs.
CUT_OFF = """() => [...document.querySelectorAll('button, select, input, summary, th, td')]
    .filter((one) => one.checkVisibility())
    .filter((one) => one.getBoundingClientRect().right > innerWidth + 1 || one.scrollWidth > one.clientWidth + 2)
    .map((one) => one.id || one.textContent)"""

# Width, height and greatest opacity of the heat map.
HEAT = """() => {
    const {width, height} = document.querySelector('#heat');
    const data = document.querySelector('#heat').getContext('2d').getImageData(0, 0, width, height).data;
    return [width, height, Math.max(...data.filter((_, at) => at % 4 === 3))];
}"""

# Texts with less contrast than WCAG 2.2 asks for at level AA (1.4.3), with their ratios.
CONTRAST = """() => {
    const parse = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
    const over = ([r, g, b, a], under) => [r, g, b].map((value, at) => a * value + (1 - a) * under[at]);
    const linear = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const luminance = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
    const ground = (one) =>
        one ? over(parse(getComputedStyle(one).backgroundColor), ground(one.parentElement)) : [255, 255, 255];
    const opacity = (one) => (one ? Number(getComputedStyle(one).opacity) * opacity(one.parentElement) : 1);
    const poor = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const one = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
        if (!text || !one.checkVisibility() || one.closest('svg, :disabled, option, .unseen')) continue;
        const style = getComputedStyle(one), under = ground(one), [r, g, b, a] = parse(style.color);
        const both = [luminance(over([r, g, b, a * opacity(one)], under)), luminance(under)];
        const ratio = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
        const px = parseFloat(style.fontSize), large = px >= 24 || (px >= 18.66 && style.fontWeight >= 700);
        if (ratio < (large ? 3 : 4.5)) poor.push(`${text}: ${ratio.toFixed(2)}`);
    }
    return poor;
}"""


def launched() -> Iterator[Browser]:
    """The browser, until the generator is closed."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


def faultless_page(browser: Browser) -> Iterator[Page]:
    """A page that must neither log an error nor ask another machine for anything."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    page, faults = context.new_page(), []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith("http://127.0.0.1:") else faults.append(asked.url))
    page.on("console", lambda line: None if _is_harmless(line) else faults.append(f"{line.text} {line.location}"))
    yield page
    context.close()
    assert not faults, faults


def _is_harmless(line: ConsoleMessage) -> bool:
    """An answer of the API such as 412 is no fault of the page; a file that is not there would be."""
    answered = line.text.startswith("Failed to load resource:") and "/v1/" in line.location["url"]
    return line.type not in ("error", "warning") or answered


def upload(page: Page, data: bytes, *, name: str = NAME) -> None:
    """Choose a file."""
    page.locator("input[type=file]").set_input_files({"name": name, "mimeType": "image/jpeg", "buffer": data})


def transfer(page: Page, data: bytes, kind: str) -> None:
    """What a "drop" or a "paste" of a file does."""
    page.evaluate(
        """([bytes, name, kind]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/jpeg"}));
            const options = {bubbles: true, cancelable: true};
            const event = kind === "drop" ? new DragEvent(kind, {dataTransfer: data, ...options})
                : new ClipboardEvent(kind, {clipboardData: data, ...options});
            document.body.dispatchEvent(event);
        }""",
        [list(data), NAME, kind],
    )


def place(page: Page, size: tuple[int, int], x: float, y: float) -> tuple[float, float]:
    """Where on the screen a pixel of the photograph of ``size`` [h, w] is."""
    overlay = page.locator("#boxes").bounding_box()
    assert overlay is not None
    scale = min(overlay["width"] / size[1], overlay["height"] / size[0])
    left = overlay["x"] + (overlay["width"] - scale * size[1]) / 2
    top = overlay["y"] + (overlay["height"] - scale * size[0]) / 2
    return left + scale * x, top + scale * y


def drag(page: Page, size: tuple[int, int], start: tuple[float, float], end: tuple[float, float]) -> None:
    """From one pixel of the photograph to another."""
    page.mouse.move(*place(page, size, *start))
    page.mouse.down()
    page.mouse.move(*place(page, size, (start[0] + end[0]) / 2, start[1]))
    page.mouse.move(*place(page, size, *end))
    page.mouse.up()
