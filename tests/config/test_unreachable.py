"""What a valid file can never do is said with its line and column, and never refused."""

from __future__ import annotations

from codellama_proxy.config.load import examine
from tests.support.cases import each

IMPLEMENTED = frozenset({"openai", "vllm", "mock"})
A = "models:\n- {name: a, provider: mock}\n"
AB = A + "- {name: b, provider: mock}\n"
OFF = "guardrail: {system_prompt: false}\n"
PRICED = "models:\n- {name: a, provider: mock, price: {input: 1, output: 1000}}\n"
UNPRICED = "models:\n- {name: a, provider: vllm, base_url: 'https://h'}\n- {name: b, provider: mock}\n"


def warnings(text: str, **environ: str) -> list[str]:
    found = examine(text.encode(), environ, implemented=IMPLEMENTED).warnings
    return [str(one).removeprefix("proxy.yaml:").replace("warning: ", "") for one in found]


NO_PRICE = "a has no known price, so requests under a budget skip it or are refused; give it one"
NO_MODEL = "allows no enabled model, so its keys can use nothing"
NO_USER = "no project of this file that may use the model may use this fallback"
CIRCLE = "the fallbacks form a cycle: %s; a request tries each model once"
TOO_FEW_TOKENS = "can never be met: the smallest request takes more tokens"
TOO_LITTLE_MONEY = "can never be met: the smallest request to the cheapest model holds more"

WARNED = {
    # circles of explicit fallbacks
    "two that back each other up": (
        "models:\n- {name: a, provider: mock, fallbacks: [b]}\n- {name: b, provider: mock, fallbacks: [a]}\n",
        [f"3:41: models[1].fallbacks[0]: {CIRCLE % 'a → b → a'}"],
    ),
    "a circle that is entered from outside": (
        "models:\n- {name: x, provider: mock, fallbacks: [a]}\n- {name: a, provider: mock, fallbacks: [b]}\n"
        "- {name: b, provider: mock, fallbacks: [c]}\n- {name: c, provider: mock, fallbacks: [x, a]}\n",
        [
            f"5:41: models[3].fallbacks[0]: {CIRCLE % 'x → a → b → c → x'}",
            f"5:44: models[3].fallbacks[1]: {CIRCLE % 'a → b → c → a'}",
        ],
    ),
    "a diamond is no circle": (
        "models:\n- {name: a, provider: mock, fallbacks: [b, c]}\n- {name: b, provider: mock, fallbacks: [d]}\n"
        "- {name: c, provider: mock, fallbacks: [d]}\n- {name: d, provider: mock}\n",
        [],
    ),
    # who may use what
    "a project that allows only what is disabled": (
        A + "- {name: off, provider: openai, api_key: '${NO}'}\nprojects:\n  web: {models: [off]}\n",
        ["3:42: off is disabled: NO is not set", f"5:17: projects.web.models: {NO_MODEL}"],
    ),
    "a project that allows nothing at all": (
        A + "projects: {web: {models: []}}\n",
        [f"3:26: projects.web.models: {NO_MODEL}"],
    ),
    "a fallback that every project leaves out": (
        AB.replace("a, provider: mock", "a, provider: mock, fallbacks: [b]")
        + "projects:\n  web: {models: [a]}\n  app: {models: ['a*']}\n",
        [f"2:41: models[0].fallbacks[0]: {NO_USER}"],
    ),
    "a fallback that one project may use": (
        AB.replace("a, provider: mock", "a, provider: mock, fallbacks: [b]")
        + "projects:\n  web: {models: [a]}\n  app: {}\n",
        [],
    ),
    # budgets and prices
    "a budget of everybody's on a model without a price": (
        UNPRICED + "limits: {global: {max_budget: 1}}\n",
        [f"2:3: {NO_PRICE}"],
    ),
    "a budget of a project that may use the model": (
        UNPRICED + "projects: {web: {models: ['a'], limits: {max_budget: 1}}}\n",
        [f"2:3: {NO_PRICE}"],
    ),
    "a budget of a project that may not": (
        UNPRICED + "projects: {web: {models: [b], limits: {max_budget: 1}}}\n",
        [],
    ),
    "a budget that is only a shadow": (UNPRICED + "limits: {key: {max_budget: 1, shadow: true}}\n", []),
    # limits above what is around them
    "a project's limit above everybody's": (
        A + "limits:\n  global: {rpm_limit: 10}\n  project: {rpm_limit: 11, tpm_limit: 900}\n",
        ["5:24: limits.project.rpm_limit: never reached: limits.global.rpm_limit is lower"],
    ),
    "one project's own limit above everybody's": (
        A + "limits: {global: {tpm_limit: 100}}\nprojects: {web: {limits: {tpm_limit: 101}}}\n",
        ["4:38: projects.web.limits.tpm_limit: never reached: limits.global.tpm_limit is lower"],
    ),
    "a key's limit above that of every project": (
        A + "limits:\n  project: {rpm_limit: 10}\n  key: {rpm_limit: 30}\n  user: {rpm_limit: 20}\n"
        "projects: {big: {limits: {rpm_limit: 20}}}\n",
        ["5:20: limits.key.rpm_limit: never reached: projects.big.limits.rpm_limit is lower"],
    ),
    "a key's limit above that of some projects": (
        A + "limits: {project: {rpm_limit: 10}, key: {rpm_limit: 30}}\n"
        "projects: {big: {limits: {rpm_limit: null}}}\n",
        [],
    ),
    "a limit above one that only looks on": (
        A + "limits: {global: {rpm_limit: 10, shadow: true}, project: {rpm_limit: 11}}\n",
        [],
    ),
    "budgets of different windows are not compared": (
        A + "limits: {global: {max_budget: 1, budget_duration: day}, "
        "project: {max_budget: 5, budget_duration: month}}\n",
        [],
    ),
    "budgets of the same window are": (
        A + "limits: {global: {max_budget: 1}, project: {max_budget: 5}}\n",
        ["3:57: limits.project.max_budget: never reached: limits.global.max_budget is lower"],
    ),
    "more requests at once than the server takes": (
        A + "server: {max_parallel_requests: 5}\nlimits: {global: {max_parallel_requests: 6}}\n",
        [
            "4:42: limits.global.max_parallel_requests: never reached: server.max_parallel_requests is lower",
        ],
    ),
    # limits below the smallest request
    "fewer tokens than any prompt has": (
        A + "limits: {user: {tpm_limit: 7}}\n",
        [f"3:28: limits.user.tpm_limit: {TOO_FEW_TOKENS}"],
    ),
    "as many tokens as the smallest prompt has": (A + "limits: {user: {tpm_limit: 8}}\n", []),
    "no tokens are meant": (A + "limits: {user: {tpm_limit: 0, rpm_limit: 0, max_budget: 0}}\n", []),
    "less money than one token costs": (
        PRICED + "limits: {key: {max_budget: 0.001}}\n",
        [f"3:28: limits.key.max_budget: {TOO_LITTLE_MONEY}"],
    ),
    "enough money for one token": (PRICED + "limits: {key: {max_budget: 0.0021}}\n", []),
    "a guardrail that eats the budget": (
        PRICED + f"guardrail: {{system_prompt: {'x' * 50}}}\nlimits: {{key: {{max_budget: 0.0021}}}}\n",
        [f"4:28: limits.key.max_budget: {TOO_LITTLE_MONEY}"],
    ),
    # pauses
    "pauses that their own maximum cuts": (
        A + "routing:\n  backoff: {initial: 9s}\n  cooldown: {time: 1h, auth_time: 11m}\n",
        [
            "4:22: routing.backoff.initial: never reached: routing.backoff.max is lower",
            "5:20: routing.cooldown.time: never reached: routing.cooldown.max_time is lower",
            "5:35: routing.cooldown.auth_time: never reached: routing.cooldown.max_time is lower",
        ],
    ),
    "a default that a written maximum cuts is no mistake": (
        A + "routing: {cooldown: {max_time: 10s}, backoff: {max: 1ms}}\n",
        [],
    ),
}


NO_TEXT = "so requests get no system prompt; write one, or false for none"


@each(
    ("text", "expected"),
    [
        (A, [f"1:1: guardrail: missing, {NO_TEXT}"]),
        (A + "guardrail:\n", [f"3:11: guardrail: missing, {NO_TEXT}"]),
        (A + "guardrail: {client_system: drop}\n", [f"3:12: guardrail: missing, {NO_TEXT}"]),
        *(
            (
                A + f"guardrail: {{system_prompt: {blank}}}\n",
                [f"3:28: guardrail.system_prompt: empty, {NO_TEXT}"],
            )
            for blank in ("''", "' '", '"\\n\\t"', "null", "'${BLANK:- }'")
        ),
        (A + OFF, []),
        (
            "models:\n- {name: a, provider: mock, system_prompt: ' '}\n" + OFF,
            [f"2:44: models[0].system_prompt: empty, {NO_TEXT}"],
        ),
        (A + OFF + "projects: {p: {guardrail: ''}}\n", [f"4:27: projects.p.guardrail: empty, {NO_TEXT}"]),
        ("models:\n- {name: a, provider: mock, mode: embedding}\n", []),
    ],
)
def test_a_guardrail_without_text_is_reported(text: str, expected: list[str]) -> None:
    assert warnings(text) == expected


def test_rejected_system_messages_are_reported_unless_agents_have_no_endpoint() -> None:
    text = A + "guardrail: {system_prompt: Only code., client_system: reject}\n"
    [reported] = warnings(text)
    assert "guardrail.client_system: coding agents send system messages in every request" in reported
    assert not warnings(text + "projects: {p: {endpoints: [chat]}}\n")
    assert warnings(text + "projects: {p: {endpoints: [responses]}}\n")


def test_completions_without_guardrail_are_reported() -> None:
    entry = "models:\n- {name: a, provider: %s, completions: true%s}\n" + OFF
    [reported] = warnings(entry % ("mock", ""))
    assert (
        reported
        == "2:42: models[0].completions: /completions sends requests to this model without a guardrail"
    )
    assert warnings(entry % ("mock", ", mode: completion")) == [
        "2:42: models[0].completions: only for mode chat"
    ]


@each(("text", "expected"), WARNED.values())
def test_unreachable_settings_are_reported(text: str, expected: list[str]) -> None:
    assert warnings(text if "guardrail" in text else text + OFF) == expected


def test_no_warning_shows_a_variables_value() -> None:
    text = (
        "models:\n- {name: '${S}', provider: mock, fallbacks: [b]}\n"
        "- {name: b, provider: mock, fallbacks: ['${S}']}\nlimits: {user: {tpm_limit: '${N}'}}\n"
    )
    output = "\n".join(warnings(text, S="sk-planted-0123", N="3"))
    assert "form a cycle;" in output
    assert TOO_FEW_TOKENS in output
    assert "planted" not in output


def test_a_very_long_chain_of_fallbacks_is_followed_to_its_end() -> None:
    entries = [f"- {{name: m{i}, provider: mock, fallbacks: [m{(i + 1) % 1500}]}}" for i in range(1500)]
    [only] = warnings("models:\n" + "\n".join(entries) + f"\n{OFF}")
    assert only.startswith("1501:")
