package main

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestPacer has work rest while the node serves, now and then, and not before.
func TestPacer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		serves := false
		p := &pacer{serves: func() bool { return serves }, rest: paceRest}
		rested := func() time.Duration {
			began := time.Now()
			p.pause()
			return time.Since(began)
		}
		if d := rested(); d != 0 {
			t.Errorf("before the node serves work rests for %v", d)
		}
		serves = true
		if d := rested(); d != paceRest {
			t.Errorf("work rests for %v, expected %v", d, paceRest)
		}
		if d := rested(); d != 0 {
			t.Errorf("right after a rest it rests for %v", d)
		}
		time.Sleep(paceWork)
		if d := rested(); d != paceRest {
			t.Errorf("after %v of work it rests for %v, expected %v", paceWork, d, paceRest)
		}
	})
}
