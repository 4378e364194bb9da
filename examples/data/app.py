"""Daily sales in, their trend and the best day of the week out: numpy and pandas at work.

    lambimg build examples/data -t data
"""

import numpy
import pandas


def handler(event, context):
    sales = pandas.DataFrame(event["sales"])
    sales["date"] = pandas.to_datetime(sales["date"])
    by_weekday = sales.groupby(sales["date"].dt.day_name())["amount"].mean()
    slope, _ = numpy.polyfit(range(len(sales)), sales["amount"], deg=1)
    return {
        "total": float(sales["amount"].sum()),
        "best_weekday": by_weekday.idxmax(),
        "trend_per_day": round(float(slope), 3),
    }
