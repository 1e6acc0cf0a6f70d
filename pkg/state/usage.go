package state

import (
	"bytes"
	"cmp"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"time"
)

// Usage is what an agent has used, according to `usage` in the data of events
// of any kind. InputTokens includes CachedInputTokens.
type Usage struct {
	InputTokens       int64 `json:"inputTokens,omitempty"`
	CachedInputTokens int64 `json:"cachedInputTokens,omitempty"`
	OutputTokens      int64 `json:"outputTokens,omitempty"`
	Cost              Cost  `json:"costUsd,omitempty"`
}

// Cost is an amount in billionths of a US dollar: unlike sums of floats, sums
// of integers do not depend on the order. In JSON it is a number of dollars.
type Cost int64

// USD is the cost in dollars.
func (c Cost) USD() float64 { return float64(c) / CostUnits }

// MarshalJSON writes dollars.
func (c Cost) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, c.USD(), 'f', -1, 64), nil
}

// UnmarshalJSON reads dollars.
func (c *Cost) UnmarshalJSON(text []byte) error {
	n, err := strconv.ParseFloat(string(text), 64)
	*c = Cost(math.RoundToEven(n * CostUnits))
	return err
}

const (
	// MaxUsage bounds each number of a Usage, of one event and of a sum: JSON
	// readers that use 64-bit floats have exact integers up to 2^53.
	MaxUsage = 1 << 53
	// CostUnits is how many units of Cost a US dollar has.
	CostUnits = 1e9
	// UsageDays is for how many days the usage of a spec is kept, the latest:
	// the eight UTC days that Horizon can overlap, and one more for a writer's
	// clock that is ahead.
	UsageDays = 9
)

func (u Usage) isZero() bool { return u == Usage{} }

func (u *Usage) add(o Usage) {
	for _, n := range []struct {
		to *int64
		by int64
	}{
		{&u.InputTokens, o.InputTokens}, {&u.CachedInputTokens, o.CachedInputTokens}, {&u.OutputTokens, o.OutputTokens}, {(*int64)(&u.Cost), int64(o.Cost)},
	} {
		*n.to = min(*n.to+n.by, MaxUsage)
	}
}

// UsageIn reads the usage in an event's data. Names may be inputTokens or
// input_tokens; if both are there, they are added. A value that is negative or
// not a number counts as 0.
func UsageIn(data json.RawMessage) Usage {
	var all, fields map[string]json.RawMessage
	if !bytes.Contains(data, []byte(`"usage"`)) || json.Unmarshal(data, &all) != nil || json.Unmarshal(all["usage"], &fields) != nil {
		return Usage{}
	}
	count := func(unit float64, names ...string) (sum int64) {
		for _, name := range names {
			n, _ := number(fields[name])
			// The same rounding and sum as usageSQL of package questions.
			sum = min(sum+int64(math.RoundToEven(min(max(n*unit, 0), MaxUsage))), MaxUsage)
		}
		return sum
	}
	return Usage{
		InputTokens: count(1, "inputTokens", "input_tokens"), CachedInputTokens: count(1, "cachedInputTokens", "cached_input_tokens"),
		OutputTokens: count(1, "outputTokens", "output_tokens"), Cost: Cost(count(CostUnits, "costUsd", "cost_usd")),
	}
}

// Used is the usage of a spec and a time that it belongs to. In Totals it is
// the usage of one UTC day, and At any time of that day.
type Used struct {
	Session, Spec string
	At            time.Time
	Usage         Usage
}

// dayUsage is the usage of one day. A day that lies partly within Horizon
// counts as a whole, because only the sum of the day is kept.
type dayUsage struct {
	day int64 // since 1970, in UTC
	Usage
}

const day = 24 * time.Hour

func dayOf(at time.Time) int64 { return int64(math.Floor(float64(at.Unix()) / day.Seconds())) }

// use adds to the usage of a day. It keeps the latest UsageDays days.
func (s *spec) use(at time.Time, u Usage) {
	n := dayOf(at)
	i, held := slices.BinarySearchFunc(s.usage, n, func(d dayUsage, n int64) int { return cmp.Compare(d.day, n) })
	if held {
		s.usage[i].add(u)
		return
	}
	s.usage = slices.Insert(s.usage, i, dayUsage{n, u})
	if len(s.usage) > UsageDays {
		s.usage = slices.Delete(s.usage, 0, 1)
	}
}

// used returns the usage since the day of the cutoff; nil if there is none.
func (s *spec) used(cutoff time.Time) *Usage {
	var sum Usage
	for _, d := range s.usage {
		if d.day >= dayOf(cutoff) {
			sum.add(d.Usage)
		}
	}
	if sum.isZero() {
		return nil
	}
	return &sum
}
