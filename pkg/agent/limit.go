package agent

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

var (
	limited = regexp.MustCompile(`(?i)\b(?:usage|rate|hour|hourly|daily|weekly|monthly|session|token|spend|request)s? limit\b|\blimit reached\b|\b(?:hit|reached|exceeded) (?:your|the|its) [\w -]{0,30}limit\b|\brate_limit`)
	plainly = regexp.MustCompile(`(?i)\busage limit reached\b|\b(?:hit|reached|exceeded) your [\w -]{0,30}limit\b`)

	resetUnix = regexp.MustCompile(`\|\s*(\d{10,13})\b`)
	resetIn   = regexp.MustCompile(`(?i)(?:again|resets?) in\s+(?:(\d+)\s*d(?:ays?)?[\s,]*)?(?:(\d+)\s*h(?:ours?|rs?)?[\s,]*)?(?:(\d+)\s*m(?:in(?:ute)?s?)?\b)?`)
	resetAt   = regexp.MustCompile(`(?i)(?:again|resets?)(?:\s+(?:at|on))?\s+(?:([A-Z][a-z]{2})[a-z]*\.?\s+(\d{1,2})(?:st|nd|rd|th)?,?\s+(?:(\d{4})\s+)?(?:at\s+)?)?(\d{1,2})(?::(\d{2}))?\s*([ap]m)?\b(?:\s*\(([\w/+-]+)\))?`)
)

// Limit reports whether a text says that a usage limit is reached, and when it is
// lifted; zero: not known.
func Limit(text string, now time.Time) (resets time.Time, isLimit bool) {
	if !limited.MatchString(text) {
		return time.Time{}, false
	}
	if found := resetUnix.FindStringSubmatch(text); found != nil {
		n, _ := strconv.ParseInt(found[1], 10, 64)
		if len(found[1]) > 10 {
			n /= 1000
		}
		return sane(time.Unix(n, 0), now), true
	}
	if found := resetIn.FindStringSubmatch(text); found != nil && found[1]+found[2]+found[3] != "" {
		after := time.Duration(number(found[1]))*24*time.Hour + time.Duration(number(found[2]))*time.Hour + time.Duration(number(found[3]))*time.Minute
		return sane(now.Add(after), now), true
	}
	if found := resetAt.FindStringSubmatch(text); found != nil && (found[5] != "" || found[6] != "") {
		return sane(clock(found, now), now), true
	}
	return time.Time{}, true
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil || n > 10_000 {
		return 0
	}
	return n
}

// sane drops times that are too far away for a usage limit.
func sane(at, now time.Time) time.Time {
	if at.Before(now.Add(-24*time.Hour)) || at.After(now.Add(60*24*time.Hour)) {
		return time.Time{}
	}
	return at.UTC()
}

// clock returns the next time at which the clock shows hour and minute, on the day
// if one is named.
func clock(found []string, now time.Time) time.Time {
	zone := now.Location()
	if found[7] != "" {
		if named, err := time.LoadLocation(found[7]); err == nil {
			zone = named
		}
	}
	now = now.In(zone)
	hour, minute := number(found[4]), number(found[5])
	switch half := strings.ToLower(found[6]); {
	case half == "pm" && hour < 12:
		hour += 12
	case half == "am" && hour == 12:
		hour = 0
	}
	if hour > 23 || minute > 59 {
		return time.Time{}
	}
	if found[1] == "" {
		at := time.Date(now.Year(), now.Month(), now.Day(), hour, minute, 0, 0, zone)
		if !at.After(now) {
			at = at.AddDate(0, 0, 1)
		}
		return at
	}
	month, err := time.Parse("Jan", strings.ToUpper(found[1][:1])+strings.ToLower(found[1][1:]))
	if err != nil {
		return time.Time{}
	}
	year := now.Year()
	if found[3] != "" {
		year = number(found[3])
	}
	at := time.Date(year, month.Month(), number(found[2]), hour, minute, 0, 0, zone)
	if found[3] == "" && at.Before(now.AddDate(0, 0, -1)) {
		at = at.AddDate(1, 0, 0)
	}
	return at
}
