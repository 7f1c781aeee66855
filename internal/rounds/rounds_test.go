package rounds_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/rounds"
)

// thing counts how often it is looked at.
type thing struct {
	rounds.Place
	looks int
}

func (t *thing) Look() { t.looks++ }

func looks(things []*thing) (n []int) {
	synctest.Wait()
	for _, t := range things {
		n = append(n, t.looks)
	}
	return n
}

// Rounds that a bubble of testing/synctest has begun, and ended, go on for those
// outside.
func TestRoundsAfterABubble(t *testing.T) {
	var r rounds.Rounds
	synctest.Test(t, func(t *testing.T) {
		one := new(thing)
		r.Enter(&one.Place, one)
		one.Leave()
	})
	two := &told{looked: make(chan struct{}, 10)}
	r.Enter(&two.Place, two)
	defer two.Leave()
	select {
	case <-two.looked:
	case <-time.After(20 * rounds.Every):
		t.Error("nobody looks")
	}
}

// told tells of each look.
type told struct {
	rounds.Place
	looked chan struct{}
}

func (t *told) Look() {
	select {
	case t.looked <- struct{}{}:
	default:
	}
}

// Each is looked at once a second from Enter to Leave, whoever else comes and goes.
func TestRounds(t *testing.T) {
	for name, leaving := range map[string][]int{"first": {2}, "middle": {1}, "last": {0}, "all": {1, 0, 2}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var r rounds.Rounds
				things := []*thing{new(thing), new(thing), new(thing)}
				for _, one := range things {
					r.Enter(&one.Place, one)
				}
				time.Sleep(2*rounds.Every + rounds.Every/2)
				want := []int{2, 2, 2}
				if got := looks(things); !slices.Equal(got, want) {
					t.Errorf("%d looks after 2.5 s, want %d", got, want)
				}
				for _, i := range leaving {
					things[i].Leave()
					things[i].Leave() // does nothing
				}
				time.Sleep(3 * rounds.Every)
				for i := range things {
					if !slices.Contains(leaving, i) {
						want[i] += 3
					}
				}
				if got := looks(things); !slices.Equal(got, want) {
					t.Errorf("%d looks after 5.5 s, want %d", got, want)
				}
				for _, one := range things {
					one.Leave()
				}
				again := new(thing)
				time.Sleep(10 * rounds.Every)
				r.Enter(&again.Place, again)
				time.Sleep(rounds.Every)
				synctest.Wait()
				if again.looks != 1 {
					t.Errorf("%d looks in the first second of one that came when all had left", again.looks)
				}
				again.Leave()
			})
		})
	}
}
