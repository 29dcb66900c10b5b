import chex
import pytest
import torch
from torch.func import grad

from funrl import compiler, nn, random, tree

KEY = random.key(0)
CPU = torch.device("cpu")


def parts():
    return (
        nn.keyed(nn.mlp((), 3), "observation", "hidden"),
        nn.keyed(nn.mlp((), 4), ["hidden"], ["action"]),
        nn.keyed(nn.mlp((4, 5), 1), ["hidden", "action"], ["value"]),
    )


def same(one, other):
    for x, y in zip(tree.leaves(one), tree.leaves(other), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)


def test_sequential_is_one_after_another():
    first, last = nn.conv((4,), 3), nn.mlp((5,), 2)
    net = nn.sequential(first, torch.tanh, last)
    x = random.normal(KEY, (7, 3, 6, 6))
    params = net.init(KEY, x)
    assert params[1] == () and not net.noisy
    torch.testing.assert_close(net.apply(params, x), last.apply(params[2], torch.tanh(first.apply(params[0], x))))
    two = nn.sequential(nn.mlp((5,)), nn.mlp((), 1))
    observation, action = random.normal(KEY, (7, 3)), random.normal(KEY, (7, 2))
    chex.assert_shape(two.apply(two.init(KEY, observation, action), observation, action), (7, 1))


def test_each_noisy_part_gets_a_key_of_its_own():
    drop = nn.dropout(0.5)
    net = nn.sequential(drop, lambda x: x + 1.0, drop)
    assert net.noisy
    x = torch.ones(200)
    params = net.init(KEY, x)
    keys = random.split(KEY, 3)
    once = drop.apply((), x, key=keys[0])
    assert torch.equal(net.apply(params, x, key=KEY), drop.apply((), once + 1.0, key=keys[2]))
    assert torch.equal(net.apply(params, x), x + 1)
    part = nn.keyed(net, "x", "y")
    assert part.noisy and torch.equal(part.apply(params, {"x": x}, key=KEY)["y"], net.apply(params, x, key=KEY))
    joined = nn.chain(part, nn.keyed(drop, "y", "z"))
    entries = joined.apply((params, ()), {"x": x}, key=KEY)
    step = joined[1].apply((), joined[0].apply(params, {"x": x}, key=random.split(KEY, 2)[0]), key=random.split(KEY, 2)[1])
    same(entries, step)


def test_keyed_reads_and_adds_entries_and_leaves_the_dict_alone():
    part = nn.keyed(nn.mlp((), 4), [("agent", "position")], [("agent", "out", "q")])
    entries = {"agent": {"position": random.normal(KEY, (5, 3)), "name": torch.zeros(1)}, "other": torch.ones(2)}
    before = tree.map(torch.clone, entries)
    params = part.init(KEY, entries)
    new = part.apply(params, entries)
    chex.assert_shape(new["agent"]["out"]["q"], (5, 4))
    assert new["other"] is entries["other"] and new["agent"]["position"] is entries["agent"]["position"]
    assert tree.structure(entries) == tree.structure(before)
    same(entries, before)


def test_outputs_of_several_kinds():
    x = {"x": torch.arange(3.0)}
    assert list(nn.keyed(lambda x: (x, 2 * x), "x", ["a", "b"]).apply((), x)) == ["x", "a", "b"]
    entries = nn.keyed(lambda x: {"logits": x, "hidden": x + 1, "none": None}, ["x"], [("model", "hidden"), "logits"]).apply((), x)
    assert torch.equal(entries["model"]["hidden"], x["x"] + 1) and torch.equal(entries["logits"], x["x"])
    overwritten = nn.keyed(lambda x: x + 1, "x", "x").apply((), x)
    assert torch.equal(overwritten["x"], x["x"] + 1)


def test_chain_infers_its_keys_and_stepwise_is_the_whole():
    sequence = nn.chain(*parts())
    assert sequence.in_keys == ("observation",) and sequence.out_keys == ("hidden", "action", "value")
    entries = {"observation": random.normal(KEY, (3, 5))}
    params = sequence.init(KEY, entries)
    whole = sequence.apply(params, entries)
    step = entries
    for i in range(len(sequence)):
        step = sequence[i].apply(params[i], step)
    same(whole, step)
    same(whole, sequence[1:].apply(params[1:], sequence[:1].apply(params[:1], entries)))
    assert sequence[1:].in_keys == ("hidden",) and sequence[-1].in_keys == ("hidden", "action") and len(sequence[1:]) == 2
    nested = nn.chain(sequence[:2], sequence[2])
    same(nested.apply((params[:2], params[2]), entries), whole)
    assert nested.in_keys == sequence.in_keys and nested.out_keys == sequence.out_keys
    deeper = nn.chain(
        nn.keyed(torch.tanh, "x", [("a", "b")]), nn.keyed(lambda a: a["b"], "a", "c"), nn.keyed(torch.tanh, [("c", "d")], "e")
    )
    assert deeper.in_keys == ("x", "a")  # ("c", "d") is a part of c, which is written; all of a is not


def test_ensemble_is_its_members():
    net = nn.mlp((6,), 2)
    members = nn.ensemble(net, 4)
    x = random.normal(KEY, (7, 3))
    params = members.init(KEY, x)
    y = members.apply(params, x)
    chex.assert_shape(y, (4, 7, 2))
    for i, key in enumerate(random.split(KEY, 4)):
        torch.testing.assert_close(y[i], net.apply(net.init(key, x), x), rtol=1e-4, atol=1e-5)
    each = nn.ensemble(net, 4, inputs="each")
    xs = random.normal(KEY, (4, 7, 3))
    ys = each.apply(each.init(KEY, xs), xs)
    torch.testing.assert_close(ys[2], net.apply(tree.index(params, 2), xs[2]), rtol=1e-4, atol=1e-5)
    assert len({round(float(v), 6) for v in y[:, 0, 0]}) == 4
    gradient = grad(lambda p: members.apply(p, x)[1].sum())(params)
    assert all((g[0] == 0).all() and (g[1] != 0).any() for g in tree.leaves(gradient))


def test_ensembles_of_entries_and_of_noise():
    sequence = nn.ensemble(nn.chain(*parts()), 4)
    entries = {"observation": random.normal(KEY, (3, 5))}
    chex.assert_shape(sequence.apply(sequence.init(KEY, entries), entries)["value"], (4, 3, 1))
    noisy = nn.ensemble(nn.noisy_linear(2), 3)
    x = torch.ones(5)
    params = noisy.init(KEY, x)
    y = noisy.apply(params, x, key=KEY)
    for i in range(3):
        torch.testing.assert_close(y[i], nn.noisy_linear(2).apply(tree.index(params, i), x, key=random.split(KEY, 3)[i]))
    torch.testing.assert_close(noisy.apply(params, x)[0], nn.noisy_linear(2).apply(tree.index(params, 0), x))


def test_compiled_agrees_with_eager():
    members = nn.ensemble(nn.chain(*parts()), 2)

    def learn(params, x):
        return grad(lambda p: members.apply(p, {"observation": x})["value"].square().sum())(params)

    x = random.normal(KEY, (3, 5))
    params = members.init(KEY, {"observation": x})
    compiled = compiler.compile(learn, backend="aot_eager")(params, x)
    for one, two in zip(tree.leaves(learn(params, x)), tree.leaves(compiled), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_describe_shows_the_tree_with_its_shapes_and_counts():
    params = nn.chain(*parts()).init(KEY, {"observation": torch.zeros(5)})
    text = nn.describe(params)
    assert "[0][0]['weight']  float32 [3, 5]" in text
    assert text.splitlines()[-1] == "10 leaves, 97 numbers, 388 bytes"


SEQUENCE = nn.chain(*parts())
X = torch.zeros(5)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: nn.sequential(), ValueError, "sequential: expected at least one part"),
        (lambda: nn.sequential(torch.zeros(1)), TypeError, "expected a net or a function, got float32"),
        (lambda: nn.sequential(torch.tanh).apply((), X), ValueError, "expected 1 parts, got 0"),
        (lambda: nn.mlp(activation=torch.nn.ELU), TypeError, r"expected a function, got the class ELU; make an object of it: ELU\(\)"),
        (lambda: nn.keyed(torch.nn.Linear(3, 4), "a", "b"), TypeError, "got a Linear whose parameters would not be learned"),
        (lambda: nn.ensemble(torch.nn.BatchNorm1d(3, affine=False), 2), TypeError, "BatchNorm1d whose .*; nn.from_module makes"),
        (lambda: nn.keyed("mlp", "a", "b"), TypeError, "expected a net or a function, got a str"),
        (lambda: nn.keyed(torch.tanh, 3, "b"), TypeError, "in_keys: expected strings, or tuples of strings for nested entries, got 3"),
        (lambda: nn.keyed(torch.tanh, [], "b"), ValueError, "in_keys: expected at least one key"),
        (lambda: nn.keyed(torch.tanh, "a", ["b", "b"]), ValueError, "out_keys: expected at least one key and each once"),
        (lambda: nn.keyed(torch.tanh, "a", "b").apply((), X), TypeError, r"expected a dict of entries, got float32 .*; give \{'a': ...\}"),
        (lambda: nn.keyed(torch.tanh, "a", "b").apply((), {"c": X}), ValueError, r"expected an entry 'a', got \['c'\]"),
        (lambda: nn.keyed(torch.tanh, [("a", "d")], "b").apply((), {"a": {"c": X}}), ValueError, r"entry \('a', 'd'\), got \['a'\]"),
        (lambda: nn.keyed(torch.tanh, "a", [("a", "c")]).apply((), {"a": X}), TypeError, "expected a dict at 'a' to write"),
        (lambda: nn.keyed(torch.tanh, "a", ["b", "c"]).apply((), {"a": X}), ValueError, "expected 1 key for the one output, float32"),
        (lambda: nn.keyed(lambda x: (x, x), "a", "b").apply((), {"a": X}), ValueError, r"expected 2 keys, one for each output, got 1"),
        (lambda: nn.keyed(lambda x: {"c": x}, "a", "b").apply((), {"a": X}), ValueError, r"which has \['c'\], got 'b'"),
        (lambda: nn.chain(), ValueError, "chain: expected at least one part"),
        (lambda: SEQUENCE[3:], ValueError, "chain: expected at least one part"),
        (lambda: nn.chain(nn.mlp((), 2)), TypeError, "part 0: expected a net that nn.keyed or nn.chain returned, got a Net; wrap it"),
        (lambda: SEQUENCE.init(KEY, {"obs": X}), ValueError, r"part 0 reads 'observation', which no part before it writes.*got \['obs'\]"),
        (lambda: SEQUENCE[1:].init(KEY, {"action": X}), ValueError, "part 0 reads 'hidden', which no part before it writes and the caller"),
        (lambda: SEQUENCE.apply((), {"observation": X}), ValueError, "chain.apply: params: expected 3 parts, got 0"),
        (lambda: nn.ensemble(nn.mlp((), 2), 0), ValueError, "ensemble: n: expected an integer of at least 1, got 0"),
        (lambda: nn.ensemble(nn.mlp((), 2), 2, inputs="all"), ValueError, "inputs: expected 'shared' or 'each', got 'all'"),
        (lambda: nn.ensemble(nn.mlp((), 2), 3).apply(nn.mlp((), 2).init(KEY, X), X), ValueError, r"expected leaves \[3, ...\], one for"),
        (lambda: nn.ensemble(nn.mlp((), 2), 3, inputs="each").init(KEY, X), ValueError, r"example: expected leaves \[3, ...\].*got \[5\]"),
    ],
)  # fmt: skip
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
