"""Architecture profiles: each is consistent in itself, and says what the manuals say."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmspec.arch import (
    ARCHITECTURES,
    FEATURES,
    Architecture,
    DirtyYoung,
    Flush,
    PteBits,
    PteValue,
    architecture,
    architectures,
)
from mmspec.errors import UsageError

K, M, G = 1 << 10, 1 << 20, 1 << 30

each = pytest.mark.parametrize("arch", ARCHITECTURES.values(), ids=list(ARCHITECTURES))


def is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


# -- consistency -----------------------------------------------------------------------------------------------------


@each
def test_sizes_are_powers_of_two_in_ascending_order(arch: Architecture) -> None:
    sizes = (arch.page_size, *arch.huge_page_sizes)

    assert all(is_power_of_two(size) for size in sizes)
    assert list(sizes) == sorted(set(sizes))
    assert arch.huge_page_size in arch.huge_page_sizes


@each
def test_a_huge_page_is_what_its_entries_span(arch: Architecture) -> None:
    spanned = {huge.size: huge.entries * arch.bytes_per_entry(huge.level) for huge in arch.huge_pages}

    assert spanned == {size: size for size in arch.huge_page_sizes}
    assert arch.bytes_per_huge_entry == arch.huge_page_size


@each
def test_neighbouring_entries_stand_in_one_table(arch: Architecture) -> None:
    bits = {level.name: level.bits for level in arch.levels}

    assert all(is_power_of_two(h.entries) and h.entries < 1 << bits[h.level] for h in arch.huge_pages)


@each
def test_levels_are_in_the_order_of_the_walk(arch: Architecture) -> None:
    names = [level.name for level in arch.levels]

    assert names == [name for name in ("pgd", "p4d", "pud", "pmd", "pte") if name in names]
    assert names[-1] == "pte"
    assert all(level.folded == (level.bits == 0) for level in arch.levels)


@each
def test_addresses_are_inside_what_the_tables_translate(arch: Architecture) -> None:
    assert 0 < arch.mmap_base < arch.user_end <= 1 << arch.va_bits <= 1 << arch.word_bits
    assert arch.mmap_base % arch.page_size == 0
    assert arch.user_end % arch.page_size == 0
    assert arch.user_end - arch.mmap_base >= 64 * arch.huge_page_size


@each
def test_a_table_fills_a_page_or_a_part_of_it(arch: Architecture) -> None:
    entry_bytes = arch.entry_bits // 8
    largest = {"s390x": 4 * arch.page_size}.get(arch.name, arch.page_size)

    assert all(entry_bytes << level.bits <= largest for level in arch.levels)


@each
def test_bits_of_an_entry_do_not_overlap(arch: Architecture) -> None:
    for bits in (arch.pte, arch.huge_pte):
        masks = [bits.valid, bits.write, bits.dirty, bits.young, bits.leaf_mask, frame_mask(bits)]

        assert sum(masks) == masks[0] | masks[1] | masks[2] | masks[3] | masks[4] | masks[5]
        assert sum(masks) < 1 << arch.entry_bits
        assert bits.leaf & ~bits.leaf_mask == 0


@each
def test_the_largest_frame_number_covers_the_largest_huge_page(arch: Architecture) -> None:
    assert arch.page_size << arch.huge_pte.pfn_bits >= 2 * max(arch.huge_page_sizes)


@each
def test_dirty_and_young_are_where_they_are_said_to_be(arch: Architecture) -> None:
    in_entry = arch.dirty_young is not DirtyYoung.STORAGE_KEY

    assert bool(arch.pte.dirty and arch.huge_pte.dirty) == in_entry
    assert bool(arch.pte.young and arch.huge_pte.young) == in_entry


@each
def test_only_interrupts_can_be_held_off_by_disabling_them(arch: Architecture) -> None:
    if arch.flush is Flush.IPI:
        assert arch.irq_off_holds_off_free
        assert arch.irq_off_holds_off_collapse


@each
def test_features_are_known_and_facts_have_sources(arch: Architecture) -> None:
    assert arch.features <= set(FEATURES)
    assert arch.has("hugetlb")
    assert "entry bits" in arch.facts
    assert all(arch.facts.values())


def test_names_are_keys_and_belong_to_one_profile() -> None:
    assert [profile.name for profile in ARCHITECTURES.values()] == list(ARCHITECTURES)


# -- entries ---------------------------------------------------------------------------------------------------------


def frame_mask(bits: PteBits) -> int:
    return ((1 << bits.pfn_bits) - 1) << bits.pfn_shift


@st.composite
def entries(draw: st.DrawFn) -> tuple[Architecture, PteValue]:
    arch = draw(st.sampled_from(list(ARCHITECTURES.values())))
    huge = draw(st.booleans())
    bits = arch.huge_pte if huge else arch.pte
    base_pages = arch.huge_page_size // arch.page_size if huge else 1
    frame = draw(st.integers(0, ((1 << bits.pfn_bits) - 1) // base_pages)) * base_pages
    present, writable, dirty, young = (draw(st.booleans()) for _ in range(4))
    return arch, PteValue(frame, present, writable, dirty, young, huge)


@given(entries())
def test_an_entry_says_what_was_put_in(drawn: tuple[Architecture, PteValue]) -> None:
    arch, value = drawn
    lost = arch.dirty_young is DirtyYoung.STORAGE_KEY
    expected = attrs.evolve(value, dirty=False, young=False) if lost else value

    assert arch.decode(arch.encode(value), huge=value.huge) == expected


@given(entries())
def test_an_entry_fits_its_width(drawn: tuple[Architecture, PteValue]) -> None:
    arch, value = drawn

    assert 0 <= arch.encode(value) < 1 << arch.entry_bits


@given(entries())
def test_encoding_what_was_decoded_changes_nothing(drawn: tuple[Architecture, PteValue]) -> None:
    arch, value = drawn
    entry = arch.encode(value)

    assert arch.encode(arch.decode(entry, huge=value.huge)) == entry


@given(entries())
def test_a_present_huge_entry_is_told_from_a_table(drawn: tuple[Architecture, PteValue]) -> None:
    arch, value = drawn
    entry = arch.encode(attrs.evolve(value, huge=True))
    table = entry ^ arch.huge_pte.leaf_mask

    assert arch.maps_huge_page(entry) == value.present
    assert not arch.maps_huge_page(table)


ENTRIES = [
    # Profile, value, the entry as the manuals and headers have it.
    ("x86_64", PteValue(0x200, True, True, True, True, True), 0x200000 | 0xE3),
    ("x86_64", PteValue(0x123, True, False, False, True), 0x123000 | 0x21),
    ("i386", PteValue(0x400, True, True, False, False, True), 0x400000 | 0x83),
    ("i386-pae", PteValue(1 << 20, True, True, False, False, True), (1 << 32) | 0x83),
    ("arm64-4k", PteValue(0x200, True, False, False, True, True), 0x200000 | 1 << 10 | 1 << 7 | 0b01),
    ("arm64-4k", PteValue(0x123, True, True, True, True), 0x123000 | 1 << 55 | 1 << 10 | 0b11),
    ("arm64-64k", PteValue(0x2000, True, True, False, False, True), 0x20000000 | 0b01),
    ("powerpc64", PteValue(0x100, True, True, True, True, True), 0xC000_0000_0000_0182 | 0x100_0000),
    ("s390x", PteValue(0x100, True, True, True, True, True), 0x100000 | 0x400),
    ("s390x", PteValue(0x100, True, False, False, False, True), 0x100000 | 0x600),
    ("s390x", PteValue(0x100, False, False, False, False, True), 0x100000 | 0x620),
    ("s390x", PteValue(0x123, False, False), 0x123000 | 0x600),
    ("riscv64-sv39", PteValue(0x200, True, True, True, True, True), 0x200 << 10 | 0xC7),
]


@pytest.mark.parametrize(("name", "value", "entry"), ENTRIES)
def test_entries_are_those_of_the_manuals(name: str, value: PteValue, entry: int) -> None:
    assert architecture(name).encode(value) == entry


# -- known facts -----------------------------------------------------------------------------------------------------

FACTS: list[tuple[str, dict[str, Any]]] = [
    (
        "x86_64",
        {"page_size": 4 * K, "huge_page_size": 2 * M, "va_bits": 48, "huge_level": "pmd", "huge_entries_per_table": 512}
        | {"flush": Flush.IPI, "dirty_young": DirtyYoung.HARDWARE, "huge_page_sizes": (2 * M, 1 * G)},
    ),
    ("x86_64-la57", {"va_bits": 57, "huge_page_size": 2 * M, "user_end": (1 << 56) - 4 * K}),
    (
        "i386",
        {
            "page_size": 4 * K,
            "huge_page_size": 4 * M,
            "va_bits": 32,
            "huge_level": "pgd",
            "huge_entries_per_table": 1024,
        }
        | {"entry_bits": 32, "torn_entries": False, "user_end": 3 * G},
    ),
    ("i386-pae", {"huge_page_size": 2 * M, "va_bits": 32, "entry_bits": 64, "word_bits": 32, "torn_entries": True}),
    (
        "arm64-4k",
        {"page_size": 4 * K, "huge_page_size": 2 * M, "va_bits": 48, "flush": Flush.BROADCAST}
        | {"huge_page_sizes": (64 * K, 2 * M, 32 * M, 1 * G), "irq_off_holds_off_collapse": False},
    ),
    ("arm64-16k", {"page_size": 16 * K, "huge_page_size": 32 * M, "va_bits": 47}),
    ("arm64-64k", {"page_size": 64 * K, "huge_page_size": 512 * M, "va_bits": 48}),
    (
        "powerpc64",
        {"page_size": 64 * K, "huge_page_size": 16 * M, "user_end": 1 << 49, "flush": Flush.BROADCAST}
        | {"dirty_young": DirtyYoung.SOFTWARE, "irq_off_holds_off_collapse": True, "huge_page_sizes": (16 * M, 16 * G)},
    ),
    (
        "s390x",
        {"page_size": 4 * K, "huge_page_size": 1 * M, "huge_entries_per_table": 2048, "va_bits": 53}
        | {"dirty_young": DirtyYoung.STORAGE_KEY, "flush": Flush.BROADCAST, "huge_page_sizes": (1 * M, 2 * G)},
    ),
    ("riscv64-sv39", {"page_size": 4 * K, "huge_page_size": 2 * M, "va_bits": 39, "user_end": 256 * G}),
    ("riscv64-sv48", {"va_bits": 48, "user_end": 1 << 47, "flush": Flush.FIRMWARE, "irq_off_holds_off_free": False}),
]


@pytest.mark.parametrize(("name", "known"), FACTS, ids=[name for name, _ in FACTS])
def test_known_facts(name: str, known: dict[str, Any]) -> None:
    arch = architecture(name)

    assert {fact: getattr(arch, fact) for fact in known} == known


def test_each_profile_has_known_facts() -> None:
    assert [name for name, _ in FACTS] == list(ARCHITECTURES)


def test_all_stacks_here_grow_down() -> None:
    assert all(arch.stack_grows_down for arch in ARCHITECTURES.values())


# -- selection -------------------------------------------------------------------------------------------------------


def test_all_selects_every_profile_in_order() -> None:
    assert architectures("all") == list(ARCHITECTURES.values())


def test_a_list_selects_in_the_order_given() -> None:
    assert [arch.name for arch in architectures("s390x, x86_64")] == ["s390x", "x86_64"]


@pytest.mark.parametrize("selection", ["vax", "x86_64,vax", "", " , "])
def test_wrong_selections_are_refused_in_one_line_that_names_the_known(selection: str) -> None:
    with pytest.raises(UsageError) as caught:
        architectures(selection)

    assert "\n" not in str(caught.value)
    assert all(name in str(caught.value) for name in ARCHITECTURES)
