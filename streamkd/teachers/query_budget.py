"""The number of images that one call may ask a teacher about.

budget = QueryBudget(500)
budget.spend(64)            # QueryBudgetError once 500 would be exceeded
"""

from __future__ import annotations

from streamkd.checks import check_count
from streamkd.errors import QueryBudgetError


class QueryBudget:
    """Counts images; `max_queries` is None for any number.

    Attributes:
      spent: images that were asked about.
    """

    def __init__(self, max_queries: int | None) -> None:
        if max_queries is not None:
            check_count("--max-queries", max_queries)
        self._max_queries = max_queries
        self.spent = 0

    def spend(self, num_images: int) -> None:
        """Counts images that are to be asked about.

        Raises:
          QueryBudgetError: they would exceed the budget; none of them is counted.
        """
        if self._max_queries is not None and self.spent + num_images > self._max_queries:
            raise QueryBudgetError(
                f"--max-queries is {self._max_queries:,}, {self.spent:,} images were asked about, "
                f"and the next {num_images:,} go together.\n"
                f"Give --max-queries {self.spent + num_images} or more, or a smaller --batch-size."
            )
        self.spent += num_images
