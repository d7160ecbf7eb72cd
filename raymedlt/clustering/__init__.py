"""Density clustering that proves its spanning tree.

screening.py       nearest candidates in low precision, with a proof of what was left out
partition.py       cells of nearby points, so that a search need not look everywhere
neighbours.py      neighbour lists, distances, core distances; the nearest point outside a component
spanning_tree.py   certified Borůvka
repair.py          what partial lists got wrong, mended where it matters most
local.py           lists and searches in this process
distributed.py     lists and searches on Ray workers
hierarchy.py       spanning tree to flat clusters; hdbscan's compiled tree code behind one door
margin.py          how narrowly the clusters were chosen
certificate.py     how sure a clustering is of itself, and the checks behind it
fit.py             the fit
plain.py           DBSCAN and k-means, for comparison
condensed.py       the condensed tree as arrays
prediction.py      density prediction and soft membership of new points
model.py           a fitted model that assigns new sentences
"""

from raymedlt.clustering.certificate import Certificate
from raymedlt.clustering.fit import Clustering, hdbscan_fit
from raymedlt.clustering.model import ClusterModel

__all__ = ["Certificate", "ClusterModel", "Clustering", "hdbscan_fit"]
