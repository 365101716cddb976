"""The charge of a call whose usage was reported completely is that of the general rules."""

from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.snapshot import Price, Tariff
from codellama_proxy.core.types import Event, Failure, Usage
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.pricing.charge import Call, charge, general_charge
from codellama_proxy.pricing.plausible_usage import Bounds
from tests.support.builders import deployment

counts = st.integers(0, 60) | st.integers(0, 10**6)
usages = st.builds(
    Usage, counts, counts, counts, counts, counts, counts, st.sampled_from([(), (("web_search", 2),)])
)
bounds = st.builds(Bounds, counts, counts, st.booleans(), st.integers(1, 3), st.booleans())
prices = st.sampled_from(
    [
        None,
        Price(3, 5),
        Price(3_000_000, 5_000_000, 1_000_000, 4_000_000),
        Price(3, 5, above=((30, Tariff(7, 9)),), service_tiers=(("priority", Tariff(20, 30)),)),
        Price(3, 5, server_tools=(("web_search", 10_000_000),)),
    ]
)
params = st.dictionaries(
    st.sampled_from(["service_tier", "speed", "web_search_options", "temperature"]),
    st.sampled_from(["priority", "default", "auto", ""]),
)


@st.composite
def calls(draw: st.DrawFn) -> Call:
    request = InferenceRequest("m", (), False, False, draw(params), None, {}, {}, 10)
    window = draw(st.none() | st.integers(1, 100))
    call = Call(deployment(context_window=window), request, 0.0, bounds=draw(bounds))
    for text, usage in draw(st.lists(st.tuples(st.text(max_size=300), st.none() | usages), max_size=3)):
        call.note([Event(b"{}", text=text, usage=usage)])
    call.whole = draw(st.booleans())
    if not call.whole:
        call.failed(Failure("transient", sent=draw(st.booleans()), refused=draw(st.booleans())))
    call.end(1.0)
    call.counted = draw(st.none() | usages)
    return call


@given(calls(), prices)
def test_the_charge_is_that_of_the_general_rules(call: Call, price: Price | None) -> None:
    assert charge(call, price) == general_charge(call, price)
