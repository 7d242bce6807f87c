package term

// Nearest returns the word of list that was most likely meant by s, or "" if none is near: a difference of at most a third
// of the letters, counting an exchanged pair as one. Of equally near words the first is taken.
func Nearest(s string, list []string) string {
	if len(s) > 64 {
		return ""
	}
	best, distance := "", len(s)/3+1
	for _, word := range list {
		if d := editDistance(s, word); d < distance {
			best, distance = word, d
		}
	}
	return best
}

// editDistance counts the insertions, deletions, replacements and exchanges of neighbours that turn a into b (optimal
// string alignment).
func editDistance(a, b string) int {
	before, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := prev[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(prev[j]+1, row[j-1]+1, replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, prev, row = prev, row, before
	}
	return prev[len(b)]
}
