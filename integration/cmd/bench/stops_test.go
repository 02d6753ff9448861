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
		{ms(35), ms(2)},  // in its aftermath: 10 to 20, and 30 more
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

func TestStopsOfLateWakes(t *testing.T) {
	us := func(n int) time.Duration { return time.Duration(n) * time.Microsecond }
	late := []span{
		{us(90_000), us(90_100)}, {us(91_000), us(91_100)}, {us(92_900), us(93_000)}, // slow for a while
		{us(1_000), us(1_100)},                                                       // late once
		{us(20_000), us(20_600)},                                                     // a stop
		{us(40_000), us(40_100)}, {us(43_000), us(43_100)}, {us(46_000), us(46_100)}, // late now and then
		{us(60_000), us(60_090)}, {us(60_050), us(62_000)}, // a stop that one of two CPUs had
	}
	if got, want := stopsOf(late), []span{{us(20_000), us(20_600)}, {us(60_000), us(62_000)}, {us(90_000), us(93_000)}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := stopsOf(nil); len(got) > 0 {
		t.Errorf("%v of nothing", got)
	}
}
