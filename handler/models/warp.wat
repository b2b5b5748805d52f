;; The inner loop of warp.ts, with SIMD. Sums are of integers, and f32 operations are never fused, so every machine gets the same pixels.
(module
  (memory (export "memory") 1)

  ;; One row of rgb24. Its pixel x samples the source at (x·$ax + $bx + depth·(x·$cx + $dx), $y + depth·$dy), in pixels.
  ;; The source has 4 bytes a pixel, $stride bytes a row, and pixel (0, 0) at $source; around it are at least 2 more pixels.
  ;; $weights has the 4×4 weights for each of 32×32 fractions of a pixel, as i16 in parts of 2^14, each row of 4 twice.
  ;; One byte is written past the row.
  (func (export "row")
    (param $source i32) (param $stride i32) (param $maxX f32) (param $maxY f32) (param $weights i32)
    (param $depth i32) (param $out i32) (param $width i32)
    (param $ax f32) (param $bx f32) (param $cx f32) (param $dx f32) (param $y f32) (param $dy f32)
    (local $column i32) (local $x f32) (local $d f32) (local $u i32) (local $v i32)
    (local $pixel i32) (local $weight i32) (local $line i32) (local $w v128) (local $four v128) (local $low v128) (local $high v128)
    (loop $pixels
      (local.set $x (f32.convert_i32_s (local.get $column)))
      (local.set $d (f32.load (local.get $depth)))
      ;; the place in the source, in 32nds of a pixel
      (local.set $u (i32.trunc_sat_f32_s (f32.nearest (f32.mul (f32.const 32) (f32.max (f32.const 0) (f32.min (local.get $maxX)
        (f32.add
          (f32.add (f32.mul (local.get $x) (local.get $ax)) (local.get $bx))
          (f32.mul (local.get $d) (f32.add (f32.mul (local.get $x) (local.get $cx)) (local.get $dx))))))))))
      (local.set $v (i32.trunc_sat_f32_s (f32.nearest (f32.mul (f32.const 32) (f32.max (f32.const 0) (f32.min (local.get $maxY)
        (f32.add (local.get $y) (f32.mul (local.get $d) (local.get $dy)))))))))
      (local.set $weight
        (i32.add
          (local.get $weights)
          (i32.shl
            (i32.or (i32.shl (i32.and (local.get $v) (i32.const 31)) (i32.const 5)) (i32.and (local.get $u) (i32.const 31)))
            (i32.const 6))))
      ;; the first of the 4×4 pixels: one up and one to the left
      (local.set $pixel
        (i32.sub
          (i32.add
            (i32.add (local.get $source) (i32.mul (i32.shr_u (local.get $v) (i32.const 5)) (local.get $stride)))
            (i32.shl (i32.shr_u (local.get $u) (i32.const 5)) (i32.const 2)))
          (i32.add (local.get $stride) (i32.const 4))))
      (local.set $low (v128.const i32x4 0 0 0 0))
      (local.set $high (v128.const i32x4 0 0 0 0))
      (local.set $line (i32.const 4))
      (loop $lines
        (local.set $w (v128.load (local.get $weight)))
        (local.set $four (v128.load (local.get $pixel))) ;; rgb- rgb- rgb- rgb- to rrrr gggg bbbb ----
        (local.set $four (i8x16.shuffle 0 4 8 12 1 5 9 13 2 6 10 14 3 7 11 15 (local.get $four) (local.get $four)))
        (local.set $low (i32x4.add (local.get $low) (i32x4.dot_i16x8_s (local.get $w) (i16x8.extend_low_i8x16_u (local.get $four)))))
        (local.set $high (i32x4.add (local.get $high) (i32x4.dot_i16x8_s (local.get $w) (i16x8.extend_high_i8x16_u (local.get $four)))))
        (local.set $weight (i32.add (local.get $weight) (i32.const 16)))
        (local.set $pixel (i32.add (local.get $pixel) (local.get $stride)))
        (local.set $line (i32.sub (local.get $line) (i32.const 1)))
        (br_if $lines (local.get $line)))
      ;; each channel has two partial sums
      (local.set $low
        (i32x4.add
          (i8x16.shuffle 0 1 2 3 8 9 10 11 16 17 18 19 24 25 26 27 (local.get $low) (local.get $high))
          (i8x16.shuffle 4 5 6 7 12 13 14 15 20 21 22 23 28 29 30 31 (local.get $low) (local.get $high))))
      (local.set $low (i32x4.shr_s (i32x4.add (local.get $low) (i32x4.splat (i32.const 0x2000))) (i32.const 14)))
      (local.set $low (i16x8.narrow_i32x4_s (local.get $low) (local.get $low)))
      (v128.store32_lane 0 (local.get $out) (i8x16.narrow_i16x8_u (local.get $low) (local.get $low)))
      (local.set $depth (i32.add (local.get $depth) (i32.const 4)))
      (local.set $out (i32.add (local.get $out) (i32.const 3)))
      (local.set $column (i32.add (local.get $column) (i32.const 1)))
      (br_if $pixels (i32.lt_u (local.get $column) (local.get $width))))))
