"""What is sent again, and who is answered."""

import grpc
from signalpost._backoff import FIRST, LONGEST, Backoff
from signalpost._ledger import Ledger
from signalpost.v1 import event_ingest_pb2 as pb

from signalpost import Refusal


def ledger(count: int) -> Ledger[int]:
    made: Ledger[int] = Ledger()
    for number in range(1, count + 1):
        made.push(pb.Event(event_id=f"e{number}"), number)
    return made


def send_all(ledger: Ledger[int]) -> list[int]:
    sent = []
    while (request := ledger.next_unsent()) is not None:
        sent.append(request.sequence)
    return sent


def accepted(sequence: int) -> pb.EmitStreamResult:
    return pb.EmitStreamResult(sequence=sequence, accepted=pb.EmitResult(event_id=f"e{sequence}"))


def refused(sequence: int, code: grpc.StatusCode) -> pb.EmitStreamResult:
    return pb.EmitStreamResult(sequence=sequence, error=pb.EventError(code=code.value[0]))


def answer(acknowledged: int, *results: pb.EmitStreamResult) -> pb.EmitStreamResponse:
    return pb.EmitStreamResponse(acknowledged_sequence=acknowledged, results=results)


def test_after_a_break_exactly_what_has_no_answer_is_sent_again_in_order() -> None:
    five = ledger(5)
    assert send_all(five) == [1, 2, 3, 4, 5]
    settled = five.acknowledge(answer(2, accepted(1), accepted(2)))
    assert [who for who, _ in settled.answers] == [1, 2]
    assert not five.has_unsent
    five.rewind()
    assert send_all(five) == [3, 4, 5]


def test_a_result_counts_only_with_the_acknowledgement_that_covers_it() -> None:
    two = ledger(2)
    send_all(two)
    assert two.acknowledge(answer(0, accepted(1), accepted(2))).answers == []
    assert len(two.acknowledge(answer(2)).answers) == 2
    assert not two


def test_an_event_that_can_never_be_accepted_is_told_and_one_that_may_be_later_goes_again() -> None:
    three = ledger(3)
    send_all(three)
    full, wrong = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT
    settled = three.acknowledge(answer(3, refused(1, full), refused(2, wrong), accepted(3)))
    assert [(who, isinstance(told, Refusal)) for who, told in settled.answers] == [(2, True), (3, False)]
    assert settled.put_back
    assert send_all(three) == [4]


def test_answers_to_what_nobody_asked_change_nothing() -> None:
    one = ledger(1)
    assert one.acknowledge(answer(0, accepted(7))).answers == []
    assert one.has_unsent
    assert one.drain() == [1]


def test_pauses_grow_up_to_a_limit_and_the_server_may_ask_for_longer_ones() -> None:
    backoff = Backoff()
    pauses = [backoff.next(None) for _ in range(20)]
    assert FIRST / 2 <= pauses[0] <= FIRST
    assert LONGEST / 2 <= pauses[19] <= LONGEST
    assert backoff.next(30.0) == 30.0
