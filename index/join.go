package index

// largeSegment is how many entries a segment that others are put together in has at most, unless one pack alone has more: 5 MB.
const largeSegment = 100_000

// Joiner puts what segments say of packs together in new ones. Its zero value is ready; it is not for concurrent use.
type Joiner struct {
	segment  *Segment
	sessions map[string]uint16 // of segment
}

// Add adds a pack with its session record and its entries; what these say of the numbers of session and pack does not count. Where the segment at hand
// has no room it reports false and adds nothing: after Take there is.
func (j *Joiner) Add(p Pack, session []byte, entries []Entry) bool {
	switch s := j.segment; {
	case s == nil:
		j.segment, j.sessions = new(Segment), make(map[string]uint16)
	case len(s.Entries)+len(entries) > largeSegment, len(s.Packs) >= MaxPacks, len(s.Sessions) >= MaxSessions:
		return false
	}
	s := j.segment
	number, known := j.sessions[string(session)]
	if !known {
		number = uint16(len(s.Sessions))
		j.sessions[string(session)] = number
		s.Sessions = append(s.Sessions, session)
	}
	for _, e := range entries {
		e.Pack = uint32(len(s.Packs))
		s.Entries = append(s.Entries, e)
	}
	p.Session = number
	s.Packs = append(s.Packs, p)
	return true
}

// Take returns the segment at hand, sorted, and goes on with another; nil says that nothing was added.
func (j *Joiner) Take() *Segment {
	s := j.segment
	j.segment, j.sessions = nil, nil
	if s != nil {
		s.Sort()
	}
	return s
}
