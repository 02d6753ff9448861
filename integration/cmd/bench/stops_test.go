package main

import (
	"slices"
	"testing"
	"time"
)

func TestCalm(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	samples := []sample{
		{ms(0), ms(1)},   // before everything
		{ms(9), ms(12)},  // in flight when the first one begins
		{ms(12), ms(9)},  // due in it
		{ms(35), ms(2)},  // in its aftermath: 10 to 20, and 20 more
		{ms(40), ms(3)},  // at its end
		{ms(49), ms(2)},  // up to the second, which two CPUs have
		{ms(53), ms(4)},  // in its aftermath
		{ms(70), ms(5)},  // after everything
		{ms(20), ms(60)}, // over all
	}
	stops := []span{{ms(51), ms(52)}, {ms(10), ms(20)}, {ms(50), ms(52)}}
	if got, want := calm(samples, stops), []time.Duration{ms(1), ms(5)}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := calm(samples, nil); len(got) != len(samples) || !slices.IsSorted(got) {
		t.Errorf("%v without a stop", got)
	}
	if stops[0].from != ms(51) || stops[0].to != ms(52) {
		t.Error("what was given has changed")
	}
}
