"""An order, checked by pydantic and logged as JSON by Powertools for AWS Lambda.

    lambimg build examples/powertools -t powertools
"""

from decimal import Decimal

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.parser import event_parser
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel, Field

logger = Logger(service="orders")


class Line(BaseModel):
    article: str
    quantity: int = Field(gt=0)
    price: Decimal


class Order(BaseModel):
    number: int
    lines: list[Line]


@logger.inject_lambda_context
@event_parser(model=Order)
def handler(event: Order, context: LambdaContext) -> dict:
    total = sum(line.quantity * line.price for line in event.lines)
    logger.info("order taken", number=event.number, total=str(total))
    return {"number": event.number, "articles": len(event.lines), "total": str(total)}
