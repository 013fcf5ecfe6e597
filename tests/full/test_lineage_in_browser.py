"""The lineage page as a person meets it: in a real browser, with pointer and keys, also where MLflow shows it."""

from __future__ import annotations

import contextlib
import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pbt import Sweep
from pbt.population import IPBT, Halving
from pbt.record.result import load
from pbt.report.lineage_page import lineage_page, write_lineage_page
from searchspaces import Float
from tests import ledgers
from tests.full.browser import chromium, tab
from trainables import Quadratic

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Frame, Page

pytestmark = pytest.mark.full

#: Where the tree begins and ends on its canvas, in pixels: left, top, right, bottom.
LEFT, TOP, RIGHT, BOTTOM = 46, 6, 24, 20
#: Colours of a light page.
INK, PAPER, DESCENT = [0x22, 0x27, 0x2E], [255, 255, 255], [0xA1, 0x00, 0xC2]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all."""
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the scripted sweep: six members, four generations of 100 steps."""
    return write_lineage_page(load(ledgers.tell(tmp_path_factory.mktemp("runs") / "made-up")))


@pytest.fixture
def page(browser: Browser, written: Path) -> Iterator[Page]:
    """That page, opened, with a row for each member in order of number. Nothing may go wrong in it."""
    with tab(browser) as (page, troubles, asked):
        _open(page, written.as_uri())
        page.select_option("#rows", "member")
        _settle(page)
        yield page
        assert [] == troubles
        assert [written.as_uri()] == asked


def _open(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("html[data-ready=true]", timeout=60_000)


def _settle(page: Page | Frame) -> None:
    """Until what was asked for is drawn."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def _press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)
    _settle(page)


def _place(page: Page, member: int, steps: float, members: int = 6, length: int = 400) -> tuple[float, float]:
    """Where a member is at that time, in the window."""
    box = page.locator("#tree > canvas").bounding_box()
    assert box is not None
    x = LEFT + (box["width"] - LEFT - RIGHT) * steps / length
    y = TOP + (box["height"] - TOP - BOTTOM) * (member + 0.5) / members
    return box["x"] + x, box["y"] + y


def _colour(page: Page, member: int, steps: float) -> list[int]:
    """What is painted there, above the middle of the row, where no line runs."""
    x, y = _place(page, member, steps)
    return _pixel(page, x, y - 12)


def _pixel(page: Page, x: float, y: float) -> list[int]:
    """What is painted at a place in the window."""
    box = page.locator("#tree > canvas").bounding_box()
    assert box is not None
    read = "([x, y]) => [...document.querySelector('#tree > canvas').getContext('2d').getImageData(x, y, 1, 1).data]"
    return list(page.evaluate(read, [round(x - box["x"]), round(y - box["y"])])[:3])


def _heading(page: Page | Frame) -> str:
    return page.inner_text("#about h2")


def _said(page: Page, selector: str) -> str:
    return " ".join(page.inner_text(selector).split())


# ------------------------------------------------------------------------------------------------------- reading


def test_it_opens_with_the_winner_and_how_to_get_it_again(page: Page, written: Path) -> None:
    """What a person wants to know first; the sweep's own file is a click away."""
    digest = load(written.parent).digest()
    assert _heading(page) == "Member 1, segment 3, the winner"
    facts = _said(page, "#facts")
    for words in ("6 members, 22 segments, 3 copies", "lower is better", "the winner is member 1, bits_per_byte 1.3"):
        assert words in facts
    about = _said(page, "#about")
    assert "0 → 5 (at 100) → 1 (at 300)" in about
    assert "pbt schedule made-up 1:3" in about
    assert "pbt run sweep.yaml" in about
    assert "sweep.yaml, seed 0" in about
    assert f"digest {digest}" in about
    assert f"checkpoints/{'cd' * 32}.safetensors" in about
    page.click("#about summary")
    assert "members: 6" in page.inner_text("#about pre")


def test_a_members_history_tells_why_it_began_again(browser: Browser, tmp_path: Path) -> None:
    """In the reason's own words, as on record."""
    run = Sweep(
        trainable=Quadratic(),
        space={"h0": Float(0.0, 1.0), "lr": Float(1e-3, 1e-1, log=True)},
        objective="Q",
        budget={"members": 6, "generations": 6, "steps": 10},
        strategy=Halving(reduction_factor=2),
        hosts={"kind": "local", "stacks": 1},
        storage=tmp_path,
        tracking=False,
    ).run(progress=False)
    (again, *_) = (it for it in run.lineage.segments.values() if it.start == "fresh" and it.key.index)
    reason = next(
        row["reason"]
        for row in run.rows["decisions"]
        if (row["kind"], row["member"], row["segment"]) == ("start", again.key.member, again.key.index - 1)
    )
    with tab(browser) as (page, troubles, _):
        _open(page, write_lineage_page(run).as_uri())
        page.select_option("#rows", "member")
        _settle(page)
        page.mouse.click(*_place(page, again.key.member, 55, members=6, length=60))
        _settle(page)
        items = [" ".join(text.split()) for text in page.locator("#history li").all_inner_texts()]
        assert f"began again from fresh weights {reason}" in items[again.key.index]
        assert [] == troubles


def test_a_members_history_tells_that_weights_were_shrunk(browser: Browser, tmp_path: Path) -> None:
    """With the reason; where they had been copied before, once."""
    run = Sweep(
        trainable=Quadratic(),
        space={"h0": Float(0.0, 1.0), "lr": Float(1e-3, 1e-1, log=True)},
        objective="Q",
        budget={"members": 4, "generations": 8, "steps": 10},
        strategy=IPBT(quantile=0.5, slow=2, growth=1, fresh_weights=0.0),
        hosts={"kind": "local", "stacks": 1},
        storage=tmp_path,
        tracking=False,
        seed=1,
    ).run(progress=False)
    shrunk = [segment for segment in run.lineage.segments.values() if segment.shrink]
    assert {"own", "copied"} == {segment.start for segment in shrunk}
    with tab(browser) as (page, troubles, _):
        _open(page, write_lineage_page(run).as_uri())
        page.select_option("#rows", "member")
        _settle(page)
        for member in {segment.key.member for segment in shrunk}:
            page.mouse.click(*_place(page, member, 75, members=4, length=80))
            _settle(page)
            items = [" ".join(text.split()) for text in page.locator("#history li").all_inner_texts()]
            told = [place for place, text in enumerate(items) if "weights shrunk and perturbed" in text]
            assert told == [segment.key.index for segment in shrunk if segment.key.member == member]
            assert all(items[place].count("20 % of the weights of member") == 1 for place in told)
        assert [] == troubles


def test_a_members_history_tells_copies_and_changes_before_and_after(page: Page) -> None:
    """In the order in which they happened."""
    items = [" ".join(text.split()) for text in page.locator("#history li").all_inner_texts()]
    changes = "lr 0.002 → 0.012 optimizer adamw → sgd"
    assert items == [
        "generation 1 began from fresh weights 2.1, 2nd of 6",
        "generation 2 1.95, 3rd of 5",
        "generation 3 1.9, 4th of 5",
        f"generation 4 took over member 5: 1.9 → 1.5 member 5 is better {changes} 1.3, 1st of 5",
    ]


@pytest.mark.parametrize(
    ("member", "words"),
    [(2, f"considered and kept: {ledgers.DECLINED}"), (3, f"failed {ledgers.FAILURE}"), (4, "diverged, 6th of 6")],
)
def test_what_went_wrong_and_what_was_not_done_is_told_too(page: Page, member: int, words: str) -> None:
    """A failure, a divergence, an exploit that was declined."""
    page.mouse.click(*_place(page, member, 50))
    _settle(page)
    assert words in _said(page, "#history")


def test_colours_tell_scores_and_where_there_is_none(page: Page) -> None:
    """The better, the darker; what diverged or failed has a colour of its own. Nothing is selected, so none is pale."""
    _press(page, "Escape")
    light = [sum(_colour(page, member, steps)) for member, steps in ((5, 50), (0, 50), (5, 150), (1, 380))]
    assert light == sorted(light, reverse=True)
    assert _colour(page, 4, 50) == [0xCC, 0x79, 0xA7]
    assert _colour(page, 3, 120) == [0x22, 0x27, 0x2E]
    assert _colour(page, 3, 250) == [255, 255, 255]  # nobody was there


def test_one_absurd_score_takes_no_colour_from_the_others(browser: Browser, tmp_path: Path) -> None:
    """It is beyond the scale, which says so, in the map and in the curves: as in the pictures."""
    scores = {**ledgers.SCORES, 2: (2.2, 1e30, 1.85, 1.8)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledgers, "SCORES", scores)
        address = write_lineage_page(load(ledgers.tell(tmp_path / "run"))).as_uri()
    with tab(browser) as (page, troubles, _):
        _open(page, address)
        page.select_option("#rows", "member")
        _press(page, "Escape")
        assert _said(page, "#legend").startswith("bits_per_byte 2.5 1.3 (1 score beyond)")
        colours = {tuple(_colour(page, member, 380)) for member in (0, 1, 2, 4, 5)}
        assert len(colours) == 5
        curves = page.get_attribute("#curves", "aria-label") or ""
        low, high = (float(number) for number in re.findall(r"from (.+) to (.+),", curves)[0])
        assert 1 < low < high < 3
        assert curves.endswith("1 value beyond the edge")
        page.check("#logarithmic")
        _settle(page)
        assert "to 2.5, 1 value beyond the edge" in (page.get_attribute("#curves", "aria-label") or "")
        assert [] == troubles


def test_copies_stand_out_from_the_fields_they_cross(page: Page) -> None:
    """A dark line with a pale rim from the donor's row to the receiver's, before the field that it begins."""
    _press(page, "Escape")
    for donor, receiver in ((0, 5), (1, 4)):
        x, y = _place(page, (donor + receiver) // 2, 100)
        row = [_pixel(page, x + shift, y - 12) for shift in range(-30, 4)]
        dark = [number for number, pixel in enumerate(row) if pixel == INK]
        assert dark
        assert PAPER in row[dark[0] - 3 : dark[0]]
    head = _place(page, 5, 100)
    assert [INK] * 5 == [_pixel(page, head[0] + right, head[1]) for right in range(1, 6)]


def test_kin_of_the_selection_is_marked_and_the_others_are_pale(page: Page) -> None:
    """What descends from it has a line of its own colour through every field; its own colour is in no scale."""
    places = [(1, 150), (2, 150), (0, 150), (5, 150), (5, 350), (1, 350)]
    _press(page, "Escape")
    full = [_colour(page, *place) for place in places]
    _press(page, "ArrowLeft", "p", "p", "p")
    assert _heading(page) == "Member 0, segment 0"
    assert "7 segments descend from it" in _said(page, "#about")
    descends = [False, False, True, True, True, True]
    lines = [[_pixel(page, x, y + shift) for shift in (-1, 0)] for x, y in (_place(page, *place) for place in places)]
    assert descends == [DESCENT in line for line in lines]
    assert descends == [now == was for now, was in zip([_colour(page, *place) for place in places], full, strict=True)]
    assert all(sum(_colour(page, *place)) > sum(was) for place, was in zip(places[:2], full, strict=False))
    assert "descent faded: neither" in _said(page, "#legend")


# ------------------------------------------------------------------------------------------------------- pointer


def test_hovering_tells_who_was_there(page: Page) -> None:
    """Whose weights it held, its score, its hyperparameters and what changed; elsewhere nothing."""
    page.mouse.move(*_place(page, 5, 150))
    _settle(page)
    tip = _said(page, "#tip")
    assert tip.startswith("member 5, generation 2, on weights of member 0 bits_per_byte 1.6, 1st of 5")
    assert "lr 0.006 → 0.002" in tip
    page.mouse.move(*_place(page, 3, 250))
    _settle(page)
    assert page.locator("#tip").is_hidden()


def test_a_click_selects_and_links_lead_on(page: Page) -> None:
    """The address follows, so that a place can be sent to somebody."""
    page.mouse.click(*_place(page, 2, 250))
    _settle(page)
    assert _heading(page) == "Member 2, segment 2"
    assert page.url.endswith("#2:2")
    page.mouse.click(*_place(page, 1, 350))
    _settle(page)
    page.click("#about .chain button:first-child")
    _settle(page)
    assert _heading(page) == "Member 0, segment 0"
    page.click("#history li:nth-child(3)")
    _settle(page)
    assert _heading(page) == "Member 0, segment 2"


def test_a_click_on_a_curve_selects_whose_it_is(page: Page) -> None:
    """The lowest point at the end is the winner's; a hovered one is named before."""
    _press(page, "Escape")
    box = page.locator("#curves").bounding_box()
    assert box is not None
    x, best = box["x"] + box["width"] - 22, box["y"] + box["height"] - 18
    found = ""
    for up in range(0, 60, 3):
        page.mouse.move(x, best - up)
        _settle(page)
        found = _said(page, "#tip") if page.locator("#tip").is_visible() else ""
        if found:
            page.mouse.click(x, best - up)
            break
    _settle(page)
    assert found.startswith("member 1, generation 4")
    assert _heading(page) == "Member 1, segment 3, the winner"


def test_the_wheel_zooms_a_drag_moves_and_everything_comes_back(page: Page) -> None:
    """Around the pointer: what was under it stays under it."""
    where = _place(page, 2, 250)
    page.mouse.move(*where)
    for _ in range(4):
        page.mouse.wheel(0, -240)
    _settle(page)
    page.mouse.click(*where)
    _settle(page)
    assert _heading(page) == "Member 2, segment 2"
    page.mouse.move(*where)
    page.mouse.down()
    page.mouse.move(where[0] + 400, where[1], steps=5)
    page.mouse.up()
    page.mouse.click(*where)
    _settle(page)
    assert _heading(page) in {"Member 2, segment 0", "Member 2, segment 1"}
    page.click("#whole")
    _settle(page)
    page.mouse.click(*_place(page, 5, 350))
    _settle(page)
    assert _heading(page) == "Member 5, segment 3"


# ---------------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("keys", "heading"),
    [
        (["ArrowLeft"], "Member 1, segment 2"),
        (["ArrowLeft", "ArrowRight"], "Member 1, segment 3, the winner"),
        (["ArrowRight"], "Member 1, segment 3, the winner"),
        (["ArrowUp"], "Member 0, segment 3"),
        (["ArrowUp", "ArrowUp"], "Member 0, segment 3"),
        (["ArrowDown", "ArrowDown"], "Member 3, segment 1"),
        (["p"], "Member 5, segment 2"),
        (["p", "p", "p"], "Member 0, segment 0"),
        (["ArrowUp", "b"], "Member 1, segment 3, the winner"),
    ],
)
def test_arrows_and_letters_move_the_selection(page: Page, keys: list[str], heading: str) -> None:
    """Never beyond an edge."""
    _press(page, *keys)
    assert _heading(page) == heading


def test_escape_selects_nothing_and_an_arrow_the_best_again(page: Page) -> None:
    """There is always a way back."""
    _press(page, "Escape")
    assert _said(page, "#details") == "Nothing is selected."
    _press(page, "ArrowLeft")
    assert _heading(page) == "Member 1, segment 3, the winner"


def test_kin_only_hides_members_that_are_none(page: Page) -> None:
    """And shows all again."""
    _press(page, "f")
    assert page.get_attribute("#focus", "aria-pressed") == "true"
    rows = []
    for row in range(3):
        page.mouse.click(*_place(page, row, 50, members=3))
        _settle(page)
        rows.append(_heading(page))
        _press(page, "b")
    assert rows == ["Member 0, segment 0", "Member 1, segment 0", "Member 5, segment 0"]
    _press(page, "f")
    page.mouse.click(*_place(page, 4, 50))
    _settle(page)
    assert _heading(page) == "Member 4, segment 0"


def test_the_keys_are_explained(page: Page) -> None:
    """With `?`, and closed again with Escape, which does nothing else then."""
    _press(page, "?")
    assert "where its weights came from" in _said(page, "#help")
    _press(page, "Escape")
    assert page.locator("#help").is_hidden()
    assert _heading(page) == "Member 1, segment 3, the winner"


# ------------------------------------------------------------------------------------------------------- finding


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("copied", "3 segments of 3 members found"),
        ("failed", "1 segment of 1 member found"),
        ("diverged", "1 segment of 1 member found"),
        ("declined", "1 segment of 1 member found"),
        ("saved", "1 segment of 1 member found"),
        ("member:0,2-3", "10 segments of 3 members found"),
        ("donor:5", "1 segment of 1 member found"),
        ("rank:1 generation>2", "2 segments of 2 members found"),
        ("score<1.7 age>=300", "4 segments of 3 members found"),
        ("lr:0.012", "1 segment of 1 member found"),
        ("optimizer:SGD nesterov:yes", "9 segments of 3 members found"),
        ("founder:0", "8 segments of 3 members found"),
        ("score>100", "0 segments of 0 members found"),
    ],
)
def test_segments_are_found_by_what_they_are(page: Page, text: str, found: str) -> None:
    """All terms must hold."""
    page.fill("#find", text)
    _settle(page)
    assert _said(page, "#found") == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("speed>3", "there is no “speed”: member, generation, score"),
        ("score<low", "“low” in “score<low” is no number"),
        ("optimizer:adam", "the options are sgd, adamw"),
        ("nonsense", "“nonsense” is not understood: write copied, fresh"),
        ("member:a-b", "is no number and no range, as 7-12"),
    ],
)
def test_what_is_not_understood_is_said_with_the_mend(page: Page, text: str, says: str) -> None:
    """And nothing is hidden meanwhile."""
    page.fill("#find", text)
    _settle(page)
    assert says in _said(page, "#found")
    assert page.get_attribute("#find", "aria-invalid") == "true"
    page.mouse.click(*_place(page, 4, 350))
    _settle(page)
    assert _heading(page) == "Member 4, segment 3"


def test_slash_begins_and_escape_ends_finding(page: Page) -> None:
    """Letters go into the field meanwhile, not to the page."""
    _press(page, "/")
    page.keyboard.type("failed")
    _settle(page)
    assert _said(page, "#found") == "1 segment of 1 member found"
    _press(page, "Escape")
    assert page.input_value("#find") == ""
    _press(page, "b")
    assert _heading(page) == "Member 1, segment 3, the winner"


# ---------------------------------------------------------------------------------------------------------- look


def test_colouring_by_something_else_changes_the_legend(page: Page) -> None:
    """Hyperparameters by value, options and founders by swatches."""
    legends = []
    for _ in range(6):
        legends.append(_said(page, "#legend"))
        _press(page, "c")
    starts = ["bits_per_byte 2.5", "rank last first", "member 0 (3 heirs)", "lr 1e-4 0.1", "sgd adamw", "no yes"]
    assert [legend[: len(start)] for legend, start in zip(legends, starts, strict=True)] == starts


def test_every_founder_has_a_colour_of_its_own(page: Page) -> None:
    """Also one that no living member goes back to; none is that of ancestry, descent or divergence."""
    page.select_option("#colour", label="founder")
    _press(page, "Escape")
    legend = _said(page, "#legend")
    assert legend.startswith("member 0 (3 heirs) member 1 (1 heir)")
    for words in ("member 3 (no heirs)", "member 4 (no heirs)", "member 5 (no heirs)"):
        assert words in legend
    assert "other" not in legend
    read = "marks => marks.map(mark => getComputedStyle(mark).backgroundColor)"
    colours = page.eval_on_selector_all("#legend i", read)
    assert len(colours) == 6 + 4  # diverged, failed, ancestry, descent
    assert len(colours) == len(set(colours))
    assert len({tuple(_colour(page, member, 30)) for member in range(6)} - {(0xCC, 0x79, 0xA7)}) == 5  # 4 diverged


def test_rows_can_stand_in_order_of_score(page: Page) -> None:
    """The best first, who failed before he was scored for the last time by what he had come to."""
    page.select_option("#rows", "score")
    _settle(page)
    order = []
    for row in range(6):
        page.mouse.click(*_place(page, row, 50))
        _settle(page)
        order.append(int(_heading(page).split(",")[0].removeprefix("Member ")))
    assert order == [1, 5, 0, 4, 2, 3]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_as_dark_as_the_person_likes(browser: Browser, written: Path, scheme: Any) -> None:
    """And the other way with `d`."""
    other = {"light": "dark", "dark": "light"}[scheme]
    papers = {"light": [255, 255, 255], "dark": [0x16, 0x19, 0x1D]}
    with tab(browser, color_scheme=scheme) as (page, troubles, _):
        _open(page, written.as_uri())
        page.select_option("#rows", "member")
        for wanted in (scheme, other):
            _settle(page)
            assert page.get_attribute("html", "data-theme") == wanted
            assert _colour(page, 3, 250) == papers[wanted]
            _press(page, "d")
        assert [] == troubles


def test_a_place_in_the_address_is_where_it_opens(browser: Browser, written: Path) -> None:
    """As `pbt lineage --open --member` asks for."""
    with tab(browser) as (page, troubles, _):
        for place, heading in (("#5:1", "Member 5, segment 1"), ("#4", "Member 4, segment 3")):
            page.goto("about:blank")
            _open(page, written.as_uri() + place)
            assert _heading(page) == heading
        assert [] == troubles


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("#99:1", "there is no member 99, which the address names"),
        ("#2:7", "member 2 has no segment 7, which the address names: its last is 3"),
        ("#best", "the address ends in “#best”, which names no member: as #3, or #3:5 for its segment 5"),
    ],
)
def test_an_address_that_names_nobody_is_told_so(browser: Browser, written: Path, place: str, says: str) -> None:
    """When the page opens and when it is open; then the winner is selected, and what was. A choice ends it."""
    with tab(browser) as (page, troubles, _):
        _open(page, written.as_uri() + place)
        assert (says, "Member 1, segment 3, the winner") == (_said(page, "#found"), _heading(page))
        _press(page, "p")
        assert (_said(page, "#found"), _heading(page)) == ("", "Member 5, segment 2")
        page.evaluate("place => { location.hash = place; }", place)
        page.locator("#found", has_text=says).wait_for()
        assert _heading(page) == "Member 5, segment 2"
        assert [] == troubles


# ------------------------------------------------------------------------------------------------ wherever it is


def test_it_works_in_a_sandbox(browser: Browser, written: Path) -> None:
    """MLflow shows artifacts in an iframe that may run scripts and nothing else."""
    inside = html.escape(written.read_text(), quote=True)
    with tab(browser) as (page, troubles, _):
        page.set_content(f'<iframe sandbox="allow-scripts" width="1200" height="800" srcdoc="{inside}"></iframe>')
        frame = page.frame_locator("iframe")
        frame.locator("html[data-ready=true]").wait_for(timeout=60_000)
        frame.locator("#tree > canvas").press("p")
        frame.locator("#about h2", has_text="Member 5, segment 2").wait_for()
        frame.locator("#find").fill("copied")
        frame.locator("#found", has_text="3 segments of 3 members found").wait_for()
        assert [] == troubles


def test_on_a_narrow_screen_nothing_is_out_of_reach(browser: Browser, written: Path) -> None:
    """A telephone, a split window."""
    with tab(browser, viewport={"width": 420, "height": 800}) as (page, troubles, _):
        _open(page, written.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 420
        for selector in ("#tree > canvas", "#curves", "#schedule", "#about"):
            box = page.locator(selector).bounding_box()
            assert box is not None
            assert min(box["width"], box["height"]) > 30
        assert [] == troubles


@pytest.mark.parametrize("width", [390, 700, 1000, 1400])
def test_captions_are_whole_and_apart(browser: Browser, written: Path, width: int) -> None:
    """Whatever the width: nothing overlaps, nothing is cut or runs off the edge."""
    with tab(browser, viewport={"width": width, "height": 800}) as (page, troubles, _):
        _open(page, written.as_uri())
        boxes = page.eval_on_selector_all(
            "figcaption > *, figcaption select",
            "found => found.map(one => ({...one.getBoundingClientRect().toJSON(), name: one.innerText,"
            " isCut: one.scrollWidth > one.clientWidth + 1, isLabel: one.parentElement.tagName === 'FIGCAPTION'}))",
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert all(box["right"] <= width for box in boxes)
        labels = [box for box in boxes if box["isLabel"]]
        assert [] == [box["name"] for box in labels if box["isCut"]]
        for number, one in enumerate(labels):
            for other in labels[:number]:
                is_beside = one["left"] >= other["right"] - 0.5 or other["left"] >= one["right"] - 0.5
                is_below = one["top"] >= other["bottom"] - 0.5 or other["top"] >= one["bottom"] - 0.5
                assert is_beside or is_below
        assert [] == troubles


#: Whether the history begins at an entry's heading, and whether the current one is seen from top to bottom.
_SEEN = """() => {
  const list = document.querySelector("#history"), current = list.querySelector("[aria-current]");
  const start = list.scrollTop, end = start + list.clientHeight;
  const high = Math.min(current.offsetHeight, list.clientHeight);
  const isAtHeading = start === 0 || [...list.children].some(one => Math.abs(one.offsetTop - start) < 1);
  return [isAtHeading, current.offsetTop >= start - 1, current.offsetTop + high <= end + 1];
}"""


def test_the_panel_opens_at_its_top_and_the_history_at_a_heading(browser: Browser, tmp_path: Path) -> None:
    """Also in a small frame, as MLflow has it: who it is, and how to get it again, come first."""
    run = ledgers.simulate(tmp_path / "run", members=8, generations=12)
    address = write_lineage_page(load(run)).as_uri()
    for width, height in ((1400, 900), (1000, 700), (700, 500), (390, 800)):
        with tab(browser, viewport={"width": width, "height": height}) as (page, troubles, _):
            _open(page, address)
            assert page.evaluate("scrollY") == 0
            for _ in range(3):
                tops = page.evaluate("() => ['#details', '#about'].map(name => document.querySelector(name).scrollTop)")
                assert tops == [0, 0]
                seen = page.evaluate(_SEEN)
                assert seen == [True, True, True]
                _press(page, "ArrowLeft")
            assert [] == troubles


@pytest.mark.parametrize("commits", [1, 3, 5])
def test_a_sweep_under_way_has_a_page(browser: Browser, tmp_path: Path, commits: int) -> None:
    """From its first decision on; once nobody trains any more, what was under way is told to be stopped."""
    run = tmp_path / "run"
    with contextlib.closing(ledgers.story(run)) as story:
        for _ in range(commits):
            next(story)
        pages = {"under way": write_lineage_page(load(run), tmp_path / "now.html")}
    pages["stopped"] = write_lineage_page(load(run))  # its driver is gone
    for words, address in pages.items():
        with tab(browser) as (page, troubles, _):
            _open(page, address.as_uri())
            assert "6 members" in _said(page, "#facts")
            for selector in ("#legend", "#history"):
                assert words in _said(page, selector)
            (other,) = pages.keys() - {words}
            assert other not in page.inner_text("body")
            assert [] == troubles


def test_a_sweep_that_has_not_begun_has_a_page(browser: Browser, tmp_path: Path) -> None:
    """Which says so, and no key does harm."""
    from pbt.record.ledger import Ledger

    ledgers.run_json(tmp_path / "run", members=2, generations=2, steps=10)
    Ledger(tmp_path / "run").close(finished=False)
    write_lineage_page(load(tmp_path / "run"))
    with tab(browser) as (page, troubles, _):
        _open(page, (tmp_path / "run" / "lineage.html").as_uri())
        _press(page, "b", "p", "ArrowUp", "f", "c", "0", "+")
        assert "0 members" in _said(page, "#facts")
        assert [] == troubles


def test_names_are_text_wherever_they_are_shown(browser: Browser, tmp_path: Path) -> None:
    """A reason that is markup is read, not carried out."""
    bad = "<img src=x onerror=\"document.title='hacked'\">"
    run = ledgers.run_json(tmp_path / "run", members=1, generations=1, steps=10)
    from pbt.record.ledger import Ledger

    pen = ledgers.Pen(Ledger(run), ledgers.Clock())
    pen.begin(0, 0, ledgers.hparams(0))
    pen.settle()
    pen.fail(0, 0, 5, bad)
    pen.ledger.close(finished=False)
    with tab(browser) as (page, troubles, _):
        page.set_content(lineage_page(load(run)))
        page.wait_for_selector("html[data-ready=true]")
        _press(page, "ArrowLeft")
        assert bad in page.inner_text("#history")
        assert page.title() == "run: lineage"
        assert [] == troubles


def test_a_thousand_members_in_two_hundred_generations(browser: Browser, tmp_path: Path) -> None:
    """All of them are there, and answer."""
    run = ledgers.simulate(tmp_path / "run", members=1000, generations=200)
    page_of = write_lineage_page(load(run))
    with tab(browser) as (page, troubles, _):
        _open(page, page_of.as_uri())
        assert "1,000 members, 199,803 segments, 49,553 copies" in _said(page, "#facts")
        page.select_option("#rows", "member")
        page.fill("#find", "rank:1 generation:200")
        _settle(page)
        assert _said(page, "#found") == "1 segment of 1 member found"
        page.fill("#find", "")
        _press(page, "ArrowUp")
        before = _heading(page)
        page.mouse.move(*_place(page, 500, 10_000, members=1000, length=20_000))
        for _ in range(10):
            page.mouse.wheel(0, -200)
        page.mouse.click(*_place(page, 500, 10_000, members=1000, length=20_000))
        _settle(page)
        assert _heading(page) != before
        assert _heading(page) in {f"Member {member}, segment {at}" for member in range(497, 504) for at in (99, 100)}
        assert [] == troubles
