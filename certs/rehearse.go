package certs

import (
	"slices"
	"time"
)

// Verdict is what one check says.
type Verdict string

// The verdicts.
const (
	Passed  Verdict = "passed"
	Warning Verdict = "warning" // taken in spite of it
	Failed  Verdict = "failed"
	Skipped Verdict = "skipped" // an earlier failure leaves nothing to check
)

// CheckResult is the verdict of one check.
type CheckResult struct {
	Check   Check
	Verdict Verdict
	Message string // of a warning or a failure
}

// Rehearsal is what Advance would make of a candidate.
type Rehearsal struct {
	Outcome Outcome       // Unchanged when it is active already
	Results []CheckResult // every check, in order
	Pairs   []*Bundle     // as far as they can be read
}

// Rehearse makes every check of a candidate and activates nothing: not the first
// failure is told but all of them. A function of its arguments.
func Rehearse(prev *Slot, c Candidate, now time.Time) Rehearsal {
	if prev == nil {
		prev = &Slot{Name: c.Name, Source: c.Source}
	}
	fresh := prev.copy()
	fresh.Refused = nil // it may be this very candidate's
	_, outcome := Advance(fresh, c, now)
	v, refusal := judge(prev, &c, now)
	r := Rehearsal{Outcome: outcome, Pairs: v.bundles}
	alone := []Check{CheckParse, CheckStrength, CheckEncrypted, CheckMismatch, CheckChain}
	if len(v.bundles) < len(c.Pairs) || len(c.Pairs) == 0 || refusal != nil && refusal.Check == CheckParse {
		r.fail(refusal, alone, Passed)
		r.add(Skipped, "", CheckExpired, CheckNotYetValid, CheckNames, CheckUsage, CheckOlder, CheckStandIn, CheckRevoked, CheckRolledBack, CheckStaple, CheckHandshake)
		return r
	}
	r.add(Passed, "", alone...)
	r.compare(prev, &c, v, now)
	switch {
	case v.same:
		r.add(Passed, "", CheckHandshake)
	case refusal != nil && refusal.Check == CheckHandshake:
		r.add(Failed, refusal.Message, CheckHandshake)
	case refusal != nil:
		r.handshakes(v.bundles)
	default:
		r.add(Passed, "", CheckHandshake)
	}
	return r
}

func (r *Rehearsal) add(v Verdict, message string, checks ...Check) {
	for _, c := range checks {
		r.Results = append(r.Results, CheckResult{c, v, message})
	}
}

// fail tells a refusal among checks that end at the first failure.
func (r *Rehearsal) fail(refusal *Refusal, checks []Check, before Verdict) {
	for _, c := range checks {
		if c == refusal.Check {
			r.add(Failed, refusal.Message, c)
			before = Skipped
			continue
		}
		r.add(before, "", c)
	}
}

// compare tells the checks against what serves; the worst of two pairs counts.
func (r *Rehearsal) compare(prev *Slot, c *Candidate, v verdict, now time.Time) {
	worst := map[Check]CheckResult{}
	against := prev.standing(c, now)
	for _, b := range v.bundles {
		active := against.peer(b)
		for _, f := range findings(against, c, active, v.bundles, b, now) {
			if f.refusal == nil {
				continue
			}
			res := CheckResult{f.refusal.Check, Failed, f.refusal.Message}
			if f.taken(active, v.same) {
				res.Verdict = Warning
			}
			if worst[res.Check].Verdict != Failed {
				worst[res.Check] = res
			}
		}
	}
	for _, check := range []Check{CheckExpired, CheckNotYetValid, CheckNames, CheckUsage, CheckOlder, CheckStandIn, CheckRevoked, CheckRolledBack, CheckStaple} {
		res, found := worst[check]
		if !found {
			res = CheckResult{check, Passed, ""}
		}
		r.Results = append(r.Results, res)
	}
	// An Ed25519 key alone is a question of strength.
	if res, found := worst[CheckStrength]; found {
		r.Results[slices.IndexFunc(r.Results, func(x CheckResult) bool { return x.Check == CheckStrength })] = res
	}
}

func (r *Rehearsal) handshakes(bundles []*Bundle) {
	for _, b := range bundles {
		cert, err := b.idle().TLS()
		if err == nil {
			err = tryHandshake(cert)
		}
		if err != nil {
			r.add(Failed, err.Error(), CheckHandshake)
			return
		}
	}
	r.add(Passed, "", CheckHandshake)
}
