"""Where cases come from: one class for each way in which a data set lies on a disk."""

from RecurrentRegistrationLib.train.sources.base import Source
from RecurrentRegistrationLib.train.sources.bids import Bids
from RecurrentRegistrationLib.train.sources.folder import Folder
from RecurrentRegistrationLib.train.sources.learn2reg import Learn2Reg
from RecurrentRegistrationLib.train.sources.pair_list import PairList
from RecurrentRegistrationLib.train.sources.series import Series

__all__ = ["Bids", "Folder", "Learn2Reg", "PairList", "Series", "Source"]
