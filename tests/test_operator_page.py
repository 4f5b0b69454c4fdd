"""The operator's page in a real browser, against a real server with a real detector."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser import (
    BROWSER,
    CONTRAST,
    CUT_OFF,
    HEAT,
    NAME,
    drag,
    faultless_page,
    launched,
    transfer,
    upload,
)
from tests.serving import TOKEN, TRADE_OFF, Client, jpeg, running, settings_for, write_bundle

STATIC = Path(__file__).parent.parent / "vqc" / "serving" / "static"
SIZE = (240, 320)  # height and width of every photograph
THRESHOLD = 0.265
GOOD, DEFECTIVE = 4, 2  # seeds of photographs whose highest scores are 0.251 and 0.272
SCREENS = [(400, 860), (820, 1180), (1280, 800), (2560, 1440)]

# Without a browser a developer goes on; CI does not.
pytestmark = pytest.mark.skipif(BROWSER is None and "CI" not in os.environ, reason="no Chromium, Chrome or Edge")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    yield from launched()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    write_bundle(folder / "promoted" / "first", threshold=THRESHOLD)
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    """Of a server without a token."""
    with running(settings_for(folder)) as (_, client):
        yield client


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    yield from faultless_page(chromium)


def visit(page: Page, client: Client) -> None:
    page.goto(f"http://{client.address}/")
    expect(page.locator("#connection")).to_have_text("Connected")


def inspected(client: Client, seed: int = GOOD, **headers: str) -> dict[str, Any]:
    """A photograph that came some other way."""
    answer = client.inspect(jpeg(seed, SIZE), **headers)
    assert answer.status == 201
    return answer.json  # type: ignore[no-any-return]


def visit_one(page: Page, client: Client, seed: int = GOOD) -> dict[str, Any]:
    """The page, with an inspection of its own chosen in the history."""
    inspection = inspected(client, seed)
    visit(page, client)
    page.locator(f"#list [data-id='{inspection['id']}']").click()
    return inspection


def now(client: Client, inspection: dict[str, Any]) -> Any:
    return client.get(f"/v1/inspections/{inspection['id']}").json


# ---- photographs in, verdicts out


@pytest.mark.parametrize(
    ("how", "seed", "verdict"),
    [("choose", DEFECTIVE, "defective"), ("drop", GOOD, "good"), ("paste", DEFECTIVE, "defective")],
)
def test_a_photograph_gets_its_verdict(page: Page, client: Client, how: str, seed: int, verdict: str) -> None:
    visit(page, client)
    data = jpeg(seed, SIZE)
    upload(page, data) if how == "choose" else transfer(page, data, how)
    expect(page.locator("#subject")).to_contain_text(NAME)
    expect(page.locator("#word")).to_have_text(verdict.capitalize())
    newest = client.get("/v1/inspections?limit=1").json["items"][0]
    defects = [one for one in newest["detections"] if one["defect"]]
    assert newest["verdict"] == verdict
    assert page.locator("#sign use").get_attribute("href") == f"#sign-{verdict}"
    assert page.locator("#boxes .found").count() == len(defects)
    expect(page.locator("#why")).to_contain_text(defects[0]["category"] if defects else "no defect found")
    expect(page.locator("#announcement")).to_contain_text(verdict.capitalize())


def test_the_photograph_is_drawn(page: Page, client: Client) -> None:
    visit_one(page, client)
    expect(page.locator("body")).to_have_class("drawn")
    size = page.evaluate("[document.querySelector('#photo').width, document.querySelector('#photo').height]")
    assert size == [SIZE[1], SIZE[0]]


def test_what_is_no_photograph_is_refused_in_the_servers_words(page: Page, client: Client) -> None:
    visit(page, client)
    upload(page, b"hello", name="notes.txt")
    expect(page.locator("#notice p")).to_have_text(client.inspect(b"hello").json["detail"])
    expect(page.locator("#word")).to_have_text("Ready")


def held(page: Page, pattern: str, method: str) -> list[Route]:
    """The requests of a kind from now on, which are not answered until ``continue_`` is called on them."""
    routes: list[Route] = []

    def hold(route: Route) -> None:
        routes.append(route) if route.request.method == method else route.continue_()

    page.route(pattern, hold)
    return routes


def released(page: Page, routes: list[Route], index: int = 0) -> None:
    """Let a request that is held pass, as soon as there is one."""
    deadline_s = time.monotonic() + 10
    while len(routes) <= index and time.monotonic() < deadline_s:
        page.wait_for_timeout(20)
    routes[index].continue_()


def test_the_verdict_on_an_earlier_part_never_takes_the_place_of_a_photograph_that_was_refused(
    page: Page, client: Client
) -> None:
    earlier = inspected(client, GOOD)
    reads = held(page, "**/v1/inspections?*", "GET")  # the history's answer is late
    visit(page, client)
    upload(page, b"hello", name="notes.txt")
    expect(page.locator("#notice p")).to_contain_text("JPEG")
    released(page, reads)
    expect(page.locator(f"#list [data-id='{earlier['id']}']")).to_be_visible()
    expect(page.locator("#word")).to_have_text("Ready")
    page.locator("#filter").select_option("verdict=good")  # neither when it is read again
    released(page, reads, 1)
    page.locator("#filter").select_option("")
    released(page, reads, 2)
    expect(page.locator(f"#list [data-id='{earlier['id']}']")).to_be_visible()
    expect(page.locator("#word")).to_have_text("Ready")


def test_a_photograph_brought_while_another_is_inspected_waits_for_its_own_verdict(page: Page, client: Client) -> None:
    visit(page, client)
    posts = held(page, "**/v1/inspections", "POST")
    upload(page, jpeg(GOOD, SIZE), name="one.jpg")
    expect(page.locator("#subject")).to_have_text("one.jpg")
    upload(page, jpeg(DEFECTIVE, SIZE), name="two.jpg")
    released(page, posts)
    expect(page.locator("#list")).to_contain_text("one.jpg")
    expect(page.locator("#subject")).to_have_text("two.jpg")
    expect(page.locator("#word")).to_have_text("Inspecting")
    released(page, posts, 1)
    expect(page.locator("#word")).to_have_text("Defective")
    expect(page.locator("#subject")).to_contain_text("two.jpg")


def test_an_earlier_part_that_is_looked_at_meanwhile_keeps_its_name(page: Page, client: Client) -> None:
    earlier = inspected(client, GOOD)
    visit(page, client)
    posts = held(page, "**/v1/inspections", "POST")
    upload(page, jpeg(DEFECTIVE, SIZE), name="new.jpg")
    page.locator(f"#list [data-id='{earlier['id']}']").click()
    expect(page.locator("#word")).to_have_text("Good")
    expect(page.locator("#subject")).not_to_contain_text("new.jpg")
    page.keyboard.press("Escape")
    expect(page.locator("#word")).to_have_text("Inspecting")
    expect(page.locator("#subject")).to_have_text("new.jpg")
    released(page, posts)
    expect(page.locator("#word")).to_have_text("Defective")


def test_a_part_that_comes_while_the_history_is_read_stays_in_it(page: Page, client: Client) -> None:
    visit(page, client)
    reads = held(page, "**/v1/inspections?*", "GET")
    page.locator("#filter").select_option("verdict=good")
    released(page, reads)
    page.keyboard.press("Escape")  # all again: read, but not yet told
    later = inspected(client, DEFECTIVE)
    expect(page.locator("#word")).to_have_text("Defective")
    older = json.dumps({"items": [], "next_cursor": None})
    reads[1].fulfill(status=200, content_type="application/json", body=older)  # what it was before that part
    expect(page.locator("#list [data-id]")).to_have_count(1)
    expect(page.locator(f"#list [data-id='{later['id']}']")).to_be_visible()
    expect(page.locator("#word")).to_have_text("Defective")


def test_a_photograph_that_is_cut_off_is_shown_as_unreadable_and_never_as_good(page: Page, client: Client) -> None:
    visit(page, client)
    upload(page, jpeg(GOOD, SIZE)[:2000])
    expect(page.locator("#word")).to_have_text("Unreadable")
    newest = client.get("/v1/inspections?limit=1").json["items"][0]
    expect(page.locator("#notice p")).to_have_text(newest["reason"])
    expect(page.locator("#edit")).to_be_disabled()


def test_the_camera_is_a_source(page: Page, client: Client) -> None:
    visit(page, client)
    page.locator("#camera").click()
    page.locator("#shoot").click()
    expect(page.locator("#subject")).to_contain_text("camera-")
    expect(page.locator("#verdict.busy")).to_have_count(0)
    verdict = client.get("/v1/inspections?limit=1").json["items"][0]["verdict"]
    expect(page.locator("#verdict")).to_have_attribute("data-verdict", verdict)
    page.locator("#camera").click()
    expect(page.locator("#video")).to_be_hidden()


def test_what_comes_another_way_appears_by_itself_and_does_not_take_the_place_of_what_is_looked_at(
    page: Page, client: Client
) -> None:
    visit_one(page, client)
    first = inspected(client, X_Filename="first.jpg")
    expect(page.locator("#subject")).to_contain_text("first.jpg")
    page.keyboard.press("ArrowDown")
    second = inspected(client, X_Filename="second.jpg")
    expect(page.locator("#live")).to_have_text("1 new photograph: show the newest")
    expect(page.locator("#subject")).not_to_contain_text("second.jpg")
    page.keyboard.press("Escape")
    expect(page.locator("#subject")).to_contain_text("second.jpg")
    ids = page.locator("#list button").evaluate_all("buttons => buttons.slice(0, 2).map(button => button.dataset.id)")
    assert ids == [second["id"], first["id"]]


def test_the_history_is_filtered_and_goes_on(page: Page, client: Client) -> None:
    for seed in (GOOD, DEFECTIVE, GOOD):
        inspected(client, seed)
    # Pages of two instead of fifty.
    page.route("**/v1/inspections?limit=50*", lambda route: route.continue_(url=route.request.url.replace("=50", "=2")))
    visit(page, client)
    expect(page.locator("#list button")).to_have_count(2)
    page.locator("#older").click()
    expect(page.locator("#list button")).to_have_count(4)
    page.locator("#filter").select_option("good")
    expect(page.locator("#list b").filter(has_not_text="Good")).to_have_count(0)


# ---- corrections


@pytest.mark.parametrize(("key", "verdict"), [("o", "good"), ("n", "defective")])
@pytest.mark.parametrize("seed", [GOOD, DEFECTIVE])
def test_one_key_corrects(page: Page, client: Client, key: str, verdict: str, seed: int) -> None:
    inspection = visit_one(page, client, seed)
    page.locator("#operator").click()
    page.locator("#reviewer").fill("Anna")
    page.keyboard.press("Enter")
    page.keyboard.press(key)
    expect(page.locator("#correction")).to_contain_text(
        "Confirmed" if inspection["verdict"] == verdict else "Corrected"
    )
    review = now(client, inspection)["review"]
    found = [one["bbox"] for one in inspection["detections"] if one["defect"]] if verdict == "defective" else []
    assert (review["verdict"], review["reviewer"]) == (verdict, "Anna")
    assert [box["bbox"] for box in review["boxes"]] == found
    expect(page.locator("#word")).to_have_text(verdict.capitalize())


def test_a_key_is_not_taken_for_a_photograph_that_has_just_appeared(page: Page, client: Client) -> None:
    page.clock.install()
    visit_one(page, client)
    page.clock.pause_at(page.evaluate("Date.now() / 1000") + 1)
    inspection = inspected(client, X_Filename="sudden.jpg")
    expect(page.locator("#subject")).to_contain_text("sudden.jpg")
    page.keyboard.press("o")
    expect(page.locator("#notice p")).to_contain_text("had just changed")
    assert now(client, inspection)["review"] is None
    page.clock.run_for(600)
    page.keyboard.press("o")
    expect(page.locator("#correction")).to_contain_text("Confirmed")


@pytest.mark.parametrize(("width", "height", "zooms"), [(400, 860, 0), (1280, 800, 0), (1280, 800, 2)])
def test_a_drawn_box_is_stored_in_pixels_of_the_photograph(
    page: Page, client: Client, width: int, height: int, zooms: int
) -> None:
    page.set_viewport_size({"width": width, "height": height})
    inspection = visit_one(page, client)
    page.locator("#edit").click()
    for _ in range(zooms):
        page.locator("#larger").click()
    page.locator("#boxes").scroll_into_view_if_needed()
    drag(page, SIZE, (110, 80), (200, 140))
    page.locator("#category").select_option("dent")
    expect(page.locator("#save")).to_contain_text("Save: defective, 1 box")
    page.locator("#save").click()
    expect(page.locator("#correction")).to_contain_text("Corrected")
    (box,) = now(client, inspection)["review"]["boxes"]
    assert box["category_id"] == 7
    assert box["bbox"] == pytest.approx([110, 80, 90, 60], abs=1)


def test_a_box_is_moved_resized_and_deleted(page: Page, client: Client) -> None:
    inspection = visit_one(page, client)
    page.keyboard.press("e")
    drag(page, SIZE, (40, 60), (100, 100))
    drag(page, SIZE, (200, 60), (260, 100))
    page.keyboard.press("Delete")
    drag(page, SIZE, (70, 80), (90, 110))  # moved by 20, 30
    drag(page, SIZE, (120, 130), (300, 230))  # its lower right corner
    page.keyboard.press("Enter")
    expect(page.locator("#editor")).to_be_hidden()
    (box,) = now(client, inspection)["review"]["boxes"]
    assert box["bbox"] == pytest.approx([60, 90, 240, 140], abs=1)


def test_boxes_are_made_without_a_pointer(page: Page, client: Client) -> None:
    inspection = visit_one(page, client)
    for key in ("e", "a", "2", "ArrowRight", "Shift+ArrowDown", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#editor")).to_be_hidden()
    (box,) = now(client, inspection)["review"]["boxes"]
    x, y, width, height = box["bbox"]
    assert box["category_id"] == 7
    assert (x > 128, y, width, height > 48) == (True, 96, 64, True)


def test_a_box_that_leaves_the_photograph_ends_at_its_edge(page: Page, client: Client) -> None:
    inspection = visit_one(page, client)
    page.keyboard.press("e")
    drag(page, SIZE, (250, 180), (400, 300))
    page.keyboard.press("Enter")
    expect(page.locator("#editor")).to_be_hidden()
    (box,) = now(client, inspection)["review"]["boxes"]
    assert box["bbox"] == pytest.approx([250, 180, 70, 60], abs=1)


def test_escape_leaves_the_boxes_as_they_were(page: Page, client: Client) -> None:
    inspection = visit_one(page, client)
    page.keyboard.press("e")
    drag(page, SIZE, (40, 60), (100, 100))
    page.keyboard.press("Escape")
    expect(page.locator("#editor")).to_be_hidden()
    assert now(client, inspection)["review"] is None


def test_a_correction_that_came_first_is_shown_and_replaced_only_on_purpose(page: Page, client: Client) -> None:
    inspection = visit_one(page, client)
    page.keyboard.press("e")
    drag(page, SIZE, (40, 60), (100, 100))
    theirs = {"verdict": "defective", "boxes": [], "reviewer": "Berta"}
    path = f"/v1/inspections/{inspection['id']}/review"
    assert client.ask("PUT", path, json_body=theirs, If_Match=f'"{inspection["etag"]}"').status == 200
    expect(page.locator("#correction")).to_contain_text("by Berta")
    page.keyboard.press("Enter")
    expect(page.locator("#notice p")).to_contain_text("meanwhile Berta corrected this photograph to defective")
    assert now(client, inspection)["review"]["reviewer"] == "Berta"
    expect(page.locator("#boxes .drawn")).to_have_count(1)
    page.keyboard.press("Enter")
    expect(page.locator("#editor")).to_be_hidden()
    assert len(now(client, inspection)["review"]["boxes"]) == 1


# ---- the threshold, the token, the connection


def test_the_slider_shows_the_figures_of_the_curve(page: Page, client: Client) -> None:
    visit_one(page, client)
    curve = client.get("/v1/operating-curve").json
    page.locator("#threshold summary").click()
    for point in curve["points"]:
        page.locator("#slider").fill(str(point["threshold"]))
        for rate in ("escape", "overkill"):
            cell = page.locator(f"#{rate}-chosen")
            expect(cell).to_contain_text(f"{100 * point[f'{rate}_rate']:.1f} %")
            expect(cell).to_contain_text(f"at most {100 * point[f'{rate}_upper']:.1f} %")
    assert [point["threshold"] for point in curve["points"]] == TRADE_OFF["thresholds"]


def test_the_threshold_needs_a_token_that_the_server_has(page: Page, client: Client) -> None:
    visit_one(page, client)
    page.locator("#threshold summary").click()
    page.locator("#slider").fill("0.8")
    page.locator("#apply").click()
    page.locator("#token").fill("guessed")
    page.keyboard.press("Enter")
    expect(page.locator("#notice p")).to_contain_text("start the server with")
    assert client.get("/v1/model").json["threshold"] == THRESHOLD


def test_with_the_token_the_page_works_and_the_threshold_is_applied(page: Page, folder: Path, tmp_path: Path) -> None:
    with running(settings_for(tmp_path, promoted=folder / "promoted", token=TOKEN)) as (_, client):
        inspected(client)
        page.goto(f"http://{client.address}/")
        page.locator("#token").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#asked")).to_be_visible()
        page.locator("#token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#connection")).to_have_text("Connected")
        expect(page.locator("body")).to_have_class("drawn")
        page.locator("#threshold summary").click()
        page.locator("#slider").fill("0.8")
        page.locator("#apply").click()
        expect(page.locator("#now")).to_have_text("0.8")
        assert client.get("/v1/model").json["threshold"] == 0.8
        page.locator("#reset").click()
        expect(page.locator("#now")).to_have_text(str(THRESHOLD))
        page.reload()  # the tab still knows the token
        expect(page.locator("#connection")).to_have_text("Connected")


def test_a_lost_connection_is_shown_until_it_is_regained(page: Page, folder: Path, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, promoted=folder / "promoted")
    with running(settings) as (_, client):
        visit_one(page, client)
        port = int(client.address.rpartition(":")[2])
    expect(page.locator("#connection")).to_contain_text("No connection since")
    assert (
        page.evaluate("getComputedStyle(document.querySelector('#verdict'), '::after').content")
        == '"Not current: no connection"'
    )
    with running(settings.model_copy(update={"port": port})) as (_, client):
        expect(page.locator("#connection")).to_have_text("Connected", timeout=15_000)
        expect(page.locator("#notice p")).to_contain_text("Connected again")
        inspected(client, X_Filename="after.jpg")
        expect(page.locator("#subject")).to_contain_text("after.jpg")


def test_the_heat_map_is_drawn_over_the_photograph_on_demand(page: Page, client: Client) -> None:
    visit_one(page, client)
    expect(page.locator("#heat")).to_be_hidden()
    page.keyboard.press("h")
    expect(page.locator("#explain")).to_have_attribute("aria-pressed", "true", timeout=30_000)
    width, height, most = page.evaluate(HEAT)
    assert (width, height) == (SIZE[1], SIZE[0])
    assert most > 100
    page.keyboard.press("h")
    expect(page.locator("#heat")).to_be_hidden()


# ---- for everybody


@pytest.mark.parametrize(("width", "height"), SCREENS)
def test_the_verdict_fills_a_third_of_every_screen_and_nothing_is_cut_off(
    page: Page, client: Client, width: int, height: int
) -> None:
    page.set_viewport_size({"width": width, "height": height})
    visit_one(page, client)
    for selector in ("#verdict", "#word", "#sign", "#why"):
        box = page.locator(selector).bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    verdict = page.locator("#verdict").bounding_box()
    assert verdict is not None
    assert verdict["width"] * verdict["height"] >= width * height / 3
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    expect(page.locator("#threshold")).to_be_visible()  # once the curve is there
    history, threshold = page.locator("#list").bounding_box(), page.locator("#threshold").bounding_box()
    assert history is not None
    assert threshold is not None
    assert history["y"] + history["height"] <= threshold["y"]
    page.locator("#threshold:not([hidden])").evaluate("one => { one.open = true; }")
    assert page.evaluate(CUT_OFF) == []


def test_everything_has_a_name_and_a_role(page: Page, client: Client) -> None:
    visit_one(page, client)
    page.locator("#threshold summary").click()
    page.keyboard.press("e")
    page.keyboard.press("a")
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    seen = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    roles = {"button", "combobox", "slider", "textbox", "checkbox", "img", "image", "group", "table", "region", "video"}
    assert [role for role, name in seen if role in roles - {"table", "group"} and not name.strip()] == []
    assert [role for role, _ in seen].count("main") == 1
    assert {"banner", "heading", "slider", "status", "list"} <= {role for role, _ in seen}
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))
    assert page.evaluate("document.documentElement.lang") == "en"


def test_tab_reaches_everything_in_the_order_in_which_it_is_seen(page: Page, client: Client) -> None:
    inspected(client)
    visit(page, client)
    expect(page.locator("#good")).to_be_visible()  # with the inspection, after the connection
    page.locator("#operator").focus()
    order = ["operator"]
    for _ in range(12):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id"))
    known = ["operator", "choose", "camera", "explain", "larger", "good", "defective", "edit", "filter"]
    assert [name for name in order if name in known] == known


@pytest.mark.parametrize(
    ("scheme", "verdict"),
    [("light", "good"), ("light", "none"), ("dark", "defective"), ("dark", "unreadable"), ("dark", "none")],
)
def test_texts_have_the_contrast_of_wcag_aa(page: Page, client: Client, scheme: Any, verdict: str) -> None:
    page.emulate_media(color_scheme=scheme)
    visit_one(page, client)
    page.locator("#threshold summary").click()
    page.evaluate("verdict => document.querySelector('#verdict').dataset.verdict = verdict", verdict)
    assert page.evaluate(CONTRAST) == []


def test_the_page_is_plain() -> None:
    """No build step, nothing inline that the content security policy would refuse, no address of anybody else."""
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    assert " style=" not in html
    assert "<style" not in html
    assert html.count("<script") == html.count('<script type="module" src="app.js"></script>') == 1
    text = "".join(path.read_text(encoding="utf-8") for path in STATIC.iterdir())
    assert set(re.findall(r"https?://[\w.]+", text)) == {"http://www.w3.org"}


def test_the_scripts_are_short_and_import_one_another_without_a_cycle() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in STATIC.glob("*.js")}
    imports = {
        name: set(re.findall(r'^import \{ .+ \} from "\./([a-z]+\.js)";$', text, re.MULTILINE))
        for name, text in texts.items()
    }
    assert {name for name, text in texts.items() if len(text.splitlines()) > 250} == set()
    assert {name for name, text in texts.items() if text.count("import ") > len(imports[name])} == set()
    assert set().union(*imports.values()) == set(texts) - {"app.js"}
    TopologicalSorter(imports).prepare()  # raises CycleError


def test_only_the_first_script_does_anything_when_it_is_imported() -> None:
    """Else the order of the imports would matter."""
    idle = re.compile(r"$|[ })/]|import \{|(export )?(async )?(function|class|const|let) ")
    lines = {
        path.name: [line for line in path.read_text(encoding="utf-8").splitlines() if not idle.match(line)]
        for path in STATIC.glob("*.js")
    }
    assert {name for name, others in lines.items() if others} == {"app.js"}
