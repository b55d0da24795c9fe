"""The adapter of any torch module over a data set."""

import pytest
import torch
from torch import nn

from crosscoders import ConfigError, SiteError, TokenBatch
from crosscoders.testing import ModelAdapterSuite
from crosscoders_adapters.modules import ModuleAdapter


class Second(nn.Linear):
    def forward(self, x):
        return super().forward(x), "something else"


class Table(nn.Module):
    """Two layers over rows of a table."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.count = nn.Linear(4, 6), Second(6, 5), nn.Identity()

    def forward(self, x):
        self.count(torch.ones(3, dtype=torch.int64))
        return self.second(self.first(x).relu())


def table():
    torch.manual_seed(0)
    return ModuleAdapter(Table(), torch.randn(30, 4), name="table")


def images():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 2, stride=2), nn.ReLU(), nn.Conv2d(5, 4, 1), nn.Flatten())
    return ModuleAdapter(model, torch.randn(9, 3, 4, 4), name="images", positions=4, channels_first=True)


class TestTable(ModelAdapterSuite):
    capabilities = ()

    @pytest.fixture
    def adapter(self):
        return table()


class TestImages(ModelAdapterSuite):
    capabilities = ()

    @pytest.fixture
    def adapter(self):
        return images()


def rows(*ids):
    ids = torch.tensor([ids])
    none = torch.zeros_like(ids, dtype=torch.bool)
    return TokenBatch(ids, ~none, none, none)


def test_points_are_the_modules_whose_outputs_have_positions():
    assert list(table().points()) == ["first", "second"]
    assert {point: images().width(point) for point in images().points()} == {"0": 5, "1": 5, "2": 4}


def test_an_id_is_a_position_of_a_sample():
    adapter = images()
    found = adapter.activations(rows(7, 2, 7), ["2"])["2"][0]
    whole = adapter.model[:3](adapter.inputs[[0, 1]])
    torch.testing.assert_close(found, torch.stack([whole[1, :, 1, 1], whole[0, :, 1, 0], whole[1, :, 1, 1]]))


@pytest.mark.parametrize(
    ("points", "message"), [(["third"], "has no module 'third'"), (["count"], r"'count' .* does not give \(n, D\)")]
)
def test_what_is_not_a_point_is_refused(points, message):
    with pytest.raises(SiteError, match=message):
        ModuleAdapter(Table(), torch.randn(3, 4), name="table", points=points)


def test_the_end_of_the_data_set_is_said():
    with pytest.raises(ConfigError, match="the data set of 'table' ends before sample 30"):
        table().activations(rows(30), ["first"])


def test_models_may_be_called_in_their_own_way():
    model = nn.Linear(4, 2)
    inputs = {"x": torch.randn(8, 4)}

    class Rows:
        def __getitem__(self, indices):
            return {"x": inputs["x"][indices]}

    wrapped = nn.ModuleDict({"inner": model})
    adapter = ModuleAdapter(wrapped, Rows(), name="d", call=lambda module, batch: module["inner"](batch["x"]))
    torch.testing.assert_close(adapter.activations(rows(3), ["inner"])["inner"][0], model(inputs["x"][[3]]))
