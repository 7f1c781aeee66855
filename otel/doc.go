// Package pgadvisoryotel gives the locks of xactlock, pgxlock and sessionlock spans
// and metrics of OpenTelemetry.
//
//	telemetry, err := pgadvisoryotel.New(pgadvisoryotel.Options{})
//	if err != nil {
//		return err
//	}
//	locker := xactlock.New(db).With(xactlock.Options{Trace: telemetry})
//	leader := sessionlock.New(db).With(sessionlock.Options{Trace: telemetry.Session})
//
// # Spans
//
// A call has two spans, side by side beneath the caller's: "lock wait", from the
// call to the grant, and "lock hold", from there to the end of the transaction, or
// of the session's lock. What fn does with its ctx, the statements of an
// instrumented driver for example, is beneath "lock hold". A call that gets no lock
// has only the first, and so has xactlock's Lock, which does not see the end of the
// caller's transaction. An Exec that goes in one message does not see its grant, and
// has one span, "lock exec"; so has an Exec that fails before its grant is seen. The
// namespace of the keys, where they have one, is part of the name: "lock wait
// accounts".
//
// The span of a call that failed has the status Error and an error.type. A try
// that was refused has not failed. The spans of sessionlock tell how the lock has
// ended, and not what fn has returned.
//
// # Metrics
//
//   - pgadvisory.lock.wait.duration, a histogram in seconds: from the call to the
//     grant, or to the end where there is none. Of an Exec that goes in one message
//     it is all of its time.
//   - pgadvisory.lock.hold.duration, a histogram in seconds: from the grant to the
//     end.
//   - pgadvisory.lock.calls, a counter: calls, by their outcome.
//
// # Attributes
//
// Spans and metrics have, after OpenTelemetry's conventions for databases,
//
//   - db.system.name: postgresql
//   - db.operation.name: the method, such as WithTx; of sessionlock always Lock
//   - error.type, where the call failed: the name of the error, such as
//     ErrNotAcquired, a SQLSTATE, panic, or _OTHER
//
// and of their own
//
//   - pgadvisory.namespace: the namespaces of the keys, where they have any. They
//     are few, where keys are many.
//   - pgadvisory.outcome, at the end of each: granted, not acquired or failed of a
//     wait, and committed, rolled back, failed or unknown of a hold; of sessionlock
//     released or lost.
//   - pgadvisory.contended, on a call's last span, where it is known: whether another
//     call was in the way. It is not known of sessionlock's locks, and of a Lock, TryLock or
//     Exec in one message it is told only if it is true: such a call may wait on the
//     server unseen.
//   - pgadvisory.keys, on spans, if [Options].Names is set: the keys as a person
//     wrote them.
package pgadvisoryotel
