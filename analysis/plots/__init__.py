"""Pictures of a posterior and of what was decided from it; each function returns a Figure.

Only matplotlib's object-oriented interface is used: no window, no global figure, no pyplot.
"""

from .class_effects import class_effect_figure
from .comparison import comparison_figure
from .evidence import evidence_figure
from .feature_maps import feature_map_figure, first_and_last
from .history import elbo_figure, training_figure
from .overview import inclusion_figure, widths_figure
from .predicted import predicted_accuracy_figure
from .ranks import rank_figure
from .style import save_figure
from .switches import switch_figure
from .trust import rank_plot_figure, reliability_figure, sensitivity_figure
from .views import SiteView, share_of_macs, site_views, spread_out

__all__ = [
    "SiteView",
    "class_effect_figure",
    "comparison_figure",
    "elbo_figure",
    "evidence_figure",
    "feature_map_figure",
    "first_and_last",
    "inclusion_figure",
    "predicted_accuracy_figure",
    "rank_figure",
    "rank_plot_figure",
    "reliability_figure",
    "save_figure",
    "sensitivity_figure",
    "share_of_macs",
    "site_views",
    "spread_out",
    "switch_figure",
    "training_figure",
    "widths_figure",
]
