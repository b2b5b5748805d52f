;; The two passes of resample.ts, with SIMD: sums of integers, exact, so that every machine gets the same pixels.
;; Weights are i16, parts of 2^14, an even number for each output: i32x4.dot_i16x8_s weighs two inputs of four sums at once.
(module
  (memory (export "memory") 1)

  ;; A line between rows of u8: as i16 with 6 bits of fraction, 16 samples at a time; up to 15 are read and written past $end.
  (func (export "down") (param $source i32) (param $stride i32) (param $weights i32) (param $pairs i32) (param $line i32) (param $end i32)
    (local $row i32) (local $pair i32) (local $weight v128) (local $upper v128) (local $both v128)
    (local $a v128) (local $b v128) (local $c v128) (local $d v128)
    (loop $samples
      (local.set $a (i32x4.splat (i32.const 0x80))) ;; a half, for rounding
      (local.set $b (local.get $a))
      (local.set $c (local.get $a))
      (local.set $d (local.get $a))
      (local.set $row (local.get $source))
      (local.set $pair (i32.const 0))
      (loop $rows
        (local.set $weight (v128.load32_splat (i32.add (local.get $weights) (i32.shl (local.get $pair) (i32.const 2)))))
        (local.set $upper (v128.load (local.get $row)))
        (local.set $row (i32.add (local.get $row) (local.get $stride)))
        (local.set $both (i8x16.shuffle 0 16 1 17 2 18 3 19 4 20 5 21 6 22 7 23 (local.get $upper) (v128.load (local.get $row))))
        (local.set $a (i32x4.add (local.get $a) (i32x4.dot_i16x8_s (local.get $weight) (i16x8.extend_low_i8x16_u (local.get $both)))))
        (local.set $b (i32x4.add (local.get $b) (i32x4.dot_i16x8_s (local.get $weight) (i16x8.extend_high_i8x16_u (local.get $both)))))
        (local.set $both (i8x16.shuffle 8 24 9 25 10 26 11 27 12 28 13 29 14 30 15 31 (local.get $upper) (v128.load (local.get $row))))
        (local.set $c (i32x4.add (local.get $c) (i32x4.dot_i16x8_s (local.get $weight) (i16x8.extend_low_i8x16_u (local.get $both)))))
        (local.set $d (i32x4.add (local.get $d) (i32x4.dot_i16x8_s (local.get $weight) (i16x8.extend_high_i8x16_u (local.get $both)))))
        (local.set $row (i32.add (local.get $row) (local.get $stride)))
        (local.set $pair (i32.add (local.get $pair) (i32.const 1)))
        (br_if $rows (i32.lt_u (local.get $pair) (local.get $pairs))))
      (v128.store (local.get $line)
        (i16x8.narrow_i32x4_s (i32x4.shr_s (local.get $a) (i32.const 8)) (i32x4.shr_s (local.get $b) (i32.const 8))))
      (v128.store offset=16 (local.get $line)
        (i16x8.narrow_i32x4_s (i32x4.shr_s (local.get $c) (i32.const 8)) (i32x4.shr_s (local.get $d) (i32.const 8))))
      (local.set $source (i32.add (local.get $source) (i32.const 16)))
      (local.set $line (i32.add (local.get $line) (i32.const 32)))
      (br_if $samples (i32.lt_u (local.get $line) (local.get $end)))))

  ;; An output line of rgb24, a pixel at a time, each from its own address in the line; one byte is written past $end.
  (func (export "across") (param $starts i32) (param $weights i32) (param $pairs i32) (param $out i32) (param $end i32)
    (local $pixel i32) (local $pair i32) (local $sum v128)
    (loop $pixels
      (local.set $sum (i32x4.splat (i32.const 0x80000)))
      (local.set $pixel (i32.load (local.get $starts)))
      (local.set $pair (local.get $pairs))
      (loop $neighbours
        (local.set $sum
          (i32x4.add
            (local.get $sum)
            (i32x4.dot_i16x8_s
              (v128.load32_splat (local.get $weights))
              ;; r g b r g b, each two bytes, to r r g g b b; the fourth sum is never looked at
              (i8x16.shuffle 0 1 6 7 2 3 8 9 4 5 10 11 12 13 14 15 (v128.load (local.get $pixel)) (local.get $sum)))))
        (local.set $weights (i32.add (local.get $weights) (i32.const 4)))
        (local.set $pixel (i32.add (local.get $pixel) (i32.const 12)))
        (local.set $pair (i32.sub (local.get $pair) (i32.const 1)))
        (br_if $neighbours (local.get $pair)))
      (local.set $sum (i32x4.shr_s (local.get $sum) (i32.const 20)))
      (local.set $sum (i16x8.narrow_i32x4_s (local.get $sum) (local.get $sum)))
      (v128.store32_lane 0 (local.get $out) (i8x16.narrow_i16x8_u (local.get $sum) (local.get $sum)))
      (local.set $starts (i32.add (local.get $starts) (i32.const 4)))
      (local.set $out (i32.add (local.get $out) (i32.const 3)))
      (br_if $pixels (i32.lt_u (local.get $out) (local.get $end))))))
